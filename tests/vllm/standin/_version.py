"""The release that the stand-ins are held against."""

__version__ = "0.32.0"
