"""One file per claim or figure; `python -m experiments.NAME --scale smoke|small|paper` runs, tabulates and draws it."""
