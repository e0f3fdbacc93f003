"""Shared machinery of experiments. Read: case (workload, policy, settings), sweep (enumerate, run, resume), search,
claim (published against measured), reference, figure; for live experiments live, speed_trace, errors, fault_injection.
"""
