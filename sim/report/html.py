"""Results as HTML, for notebooks and pages: the cells that the text table has, through fastserve.html_table."""

from fastserve.html_table import html_table

__all__ = ["html_table"]
