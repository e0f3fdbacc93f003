"""check_router: does a router keep the contract? Read: scripts (what is played), reach (what it still refers to), check
(the questions, in order); clocks, shared randomness and how a breach is told are those of sched/conformance.
"""

from fastserve.routers.conformance.check import ConformanceError, check_router

__all__ = ["ConformanceError", "check_router"]
