"""Stories told from results: each NAME.py is a notebook (jupytext, percent format), paired with NAME.ipynb."""
