"""Logs as JSON lines, from which everything can be decided again. Flight log: all inputs and plans of a Scheduler.
Read: write, lines, then replay, which feeds a log to a fresh Scheduler and compares the plans, and twin, which is told
less and says where it parts. Route log: all inputs and choices of a router; routes writes, reads and replays it.
"""
