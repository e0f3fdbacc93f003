"""Metrics of a run. Read: records (one row a job, the same for every driver), finish (how a job ended), summary (one
flat dict a run, paired ratios, the largest rate under an objective), saturation (does the queue grow to the end?).
"""
