"""check_policy: does a policy keep the contract? Read: scripts (what is played), instrument (what is watched),
alarm_book (which alarms rang), purity (clocks and shared randomness), errors (how a breach is told), check (the
questions, in order).
"""

from fastserve.sched.conformance.check import check_policy
from fastserve.sched.conformance.errors import ConformanceError

__all__ = ["ConformanceError", "check_policy"]
