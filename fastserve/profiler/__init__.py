"""How long an iteration takes here: load (a planned load on a live engine), fit (a latency model), calibrate (both),
store (profiles found again at the next load).
"""
