"""A trained network for use without this project: see `python -m mmlabel.export --help`."""
