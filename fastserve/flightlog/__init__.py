"""The flight log: all that a Scheduler was told and answered, as JSON lines. Read: write, then replay, which feeds a
log to a fresh Scheduler and asks for the same plans.
"""
