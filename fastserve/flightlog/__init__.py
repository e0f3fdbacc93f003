"""Flight log: all inputs and plans of a Scheduler as JSON lines. Read: write, then replay, which feeds a log to a fresh
Scheduler and compares the plans, and twin, which is told less and says where it parts.
"""
