"""Metrics of a run. Read: records (one row a job, the same for every driver), finish (how a job ended), summary (one
flat dict a run, the largest rate under an objective), saturation (do more jobs come than can leave?), intervals (ratios
between runs).
"""
