"""What experiments share. Read: case (what is run), sweep (enumerate, run, resume), search, claim (published against
ours), reference, figure; for live experiments live, speed_trace, errors, fault_injection.
"""
