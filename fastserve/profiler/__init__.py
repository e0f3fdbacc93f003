"""How long an iteration takes here: load (a planned load on a live engine), fit (a latency model), calibrate (both),
from_log (the fit of a flight log), store (profiles found again at the next load).
"""
