"""Multi-label classification of captioned pictures."""

__version__ = "0.1.0"
