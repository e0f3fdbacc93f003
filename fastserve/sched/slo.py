"""What a request was promised: service-level objectives, and the deadline that follows from them."""

from __future__ import annotations

from typing import NamedTuple

from fastserve.sched.job import NEVER

_NAN = float("nan")


class SloTargets(NamedTuple):
    """Whole ns; None where there is no such target."""

    ttft: int | None = None
    """From the arrival to the first token."""
    tpot: int | None = None
    """For each later token."""
    e2e: int | None = None
    """From the arrival to the last token."""

    def deadline(self, arrival: int) -> int:
        """ns, as `Job.deadline`: when it should have ended, else when it should have begun to speak, else NEVER."""
        span = self.ttft if self.e2e is None else self.e2e
        return NEVER if span is None else arrival + span

    def seconds(self) -> tuple[float, float, float]:
        """As records have them: TTFT, TPOT, end to end in s; NaN where there is none."""
        ttft, tpot, e2e = self
        return (
            _NAN if ttft is None else ttft / 1e9,
            _NAN if tpot is None else tpot / 1e9,
            _NAN if e2e is None else e2e / 1e9,
        )


NO_TARGETS = SloTargets()
