"""One file per claim or figure; `python -m experiments.NAME --scale smoke|small|paper` runs, tabulates and draws it."""

import sim  # noqa: F401  before fastserve: the compiled brain is used where there is one, see sim/compiled.py
