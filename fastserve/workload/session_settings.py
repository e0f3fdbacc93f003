"""SessionSettings: how the programs of a trace come, for every command and body that replays one.

Without numpy: a command line that only shows its help has the flags of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve.sched.checks import at_least, seconds

if TYPE_CHECKING:
    from fastserve.workload.trace import Trace


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How the programs of a trace come. Raises ValueError for what cannot work.

    Neither sessions nor program_rate: roots at their recorded arrivals, all else after what it waits for.
    """

    sessions: int | None = None
    """closed loop: so many programs at once; when one has ended the next of the trace begins"""
    program_rate: float | None = None
    """programs per second, a Poisson process; each begins by itself"""
    think_scale: float = 1.0
    """think times (of tools and people) times this"""
    think_cap: float | None = None
    """longest think time in seconds, after scaling (by default none)"""
    open_loop: bool = False
    """every request at its recorded arrival, whatever was answered: requests come before what they repeat was said"""
    client_timeout: float | None = None
    """seconds without a first token after which a client gives up, and its program with it (by default none does)"""

    def __post_init__(self) -> None:
        at_least("sessions", self.sessions, 1)
        for name, least, told in (("program_rate", 1e-9, "1e-9"), ("think_scale", 0.0, "0")):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1e9:
                raise ValueError(f"{name}={value} must be a number from {told} to 1e9")
        seconds("think_cap", self.think_cap)
        seconds("client_timeout", self.client_timeout)
        if self.client_timeout == 0:
            raise ValueError("client_timeout=0: nobody would ever be answered; leave it out for clients that wait")
        if self.sessions is not None and self.program_rate is not None:
            raise ValueError("give sessions (so many at once) or program_rate (so many a second), not both")
        if self.open_loop and (self.sessions is not None or self.program_rate is not None):
            other = "sessions" if self.sessions is not None else "program_rate"
            raise ValueError(f"open_loop replays every request when it was recorded, so it leaves {other} no say")
        if self.open_loop and (self.think_scale != 1.0 or self.think_cap is not None):
            raise ValueError("open_loop replays recorded arrivals; think times are in them and cannot be changed")

    def check_rate(self, **rates: float | None) -> None:
        """Raises ValueError where one of these is given by name, and how programs come leaves it nothing to say."""
        paced = "sessions" if self.sessions is not None else "program_rate" if self.program_rate is not None else None
        for name, value in rates.items():
            if paced is not None and value is not None:
                raise ValueError(
                    f"{name} stretches recorded arrivals, and {paced} leaves these no say: give one of the two"
                )

    def waits(self, trace: Trace) -> bool:
        """Whether its requests come when others have ended, or programs begin, and not at arrivals of their own."""
        paced = self.sessions is not None or self.program_rate is not None
        return paced or (trace.after is not None and not self.open_loop)

    def check_load(self, trace: Trace, load: float | None) -> None:
        """Raises ValueError for a load, which is a rate, where there is none to set."""
        if load is not None and self.waits(trace):
            raise ValueError(
                f"load {load:g}: requests of {trace.name!r} come when others have been answered, so there is no rate "
                "to set: give --sessions (programs at once), --program-rate (programs a second), or --open-loop with it"
            )

    def in_sessions(self, trace: Trace) -> bool:
        """Whether a run of it needs to be told who has ended: programs are measured, and clients may give up."""
        return trace.after is not None or self.client_timeout is not None or self.waits(trace)

    def think(self, trace: Trace) -> list[int]:
        """Think times in ns by row, scaled, then cut."""
        import numpy as np

        if trace.think is None:
            return [0] * len(trace)
        scaled = trace.think
        if self.think_scale != 1.0:
            scaled = np.rint(np.minimum(scaled * self.think_scale, 2.0**62)).astype(np.int64)
        if self.think_cap is not None:
            scaled = np.minimum(scaled, round(self.think_cap * 10**9))
        times: list[int] = scaled.tolist()
        return times

    def told(self, trace: Trace) -> str:
        """How its programs come, in words."""
        from fastserve.workload.programs import groups

        programs = len(groups(trace))
        what = f"{programs:,} programs of {len(trace):,} requests"
        if self.open_loop:
            return (
                f"open loop: {what}, each request at its recorded arrival, whatever was answered by then: under load a "
                "request comes before what it repeats was said, so a slow policy gets more work at once and finds less "
                "cached than any client would let it; compare policies in closed loop (--sessions N)"
            )
        if self.sessions is not None:
            few = f" (there are no more than {programs:,})" if self.sessions > programs else ""
            how = f"closed loop: {self.sessions:,} at once{few} of {what}; when one has ended the next begins"
        elif self.program_rate is not None:
            how = f"{what} begin by themselves, {self.program_rate:g} a second (Poisson)"
        else:
            how = f"{what} begin when they were recorded to"
        waits = trace.after is not None
        think = "; a request comes when those before it have been answered and the think time is over" if waits else ""
        scale = f", think times times {self.think_scale:g}" if self.think_scale != 1 and waits else ""
        cap = f", cut at {self.think_cap:g} s" if self.think_cap is not None and waits else ""
        gone = self.client_timeout
        timeout = (
            ""
            if gone is None
            else f"; a client without a first token after {gone:g} s gives up, and its program with it"
        )
        return f"{how}{think}{scale}{cap}{timeout}"
