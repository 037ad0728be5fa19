"""A search for better settings: see `python -m mmlabel.search --help`."""
