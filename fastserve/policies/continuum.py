"""Continuum (arXiv 2511.02230): at the end of a turn the program's KV is pinned for a while; else first come, first
served by program.

A pin is room that the turns of others cannot have. Whoever comes back while it holds goes first; then the program that
began first, and a turn that does not fit beside the pins and the turns at work keeps those behind it waiting. If
nothing runs, the pins of the latest programs go until it fits. How long a pin holds:

code: `pin` s if the gaps that followed this tool are at most so long on average, or nothing is known of it; else none.
paper: tau* = argmax over 0 and the gaps seen of P(tau) * (T * eta + reload) - tau. P: share of the tool's gaps up to
tau (of all gaps, and then of an exponential of mean 1 s, where not more than 100 were seen); T: mean wait of turns that
came without a pin; eta: -corr(turn, turns left) over programs that have ended; reload: time of computing the context.
"""

from __future__ import annotations

from collections import deque
from math import log, sqrt

from fastserve.policies.gaps import Recent, ToolGaps
from fastserve.policies.gate import Gate, Member
from fastserve.policies.programs import KEPT
from fastserve.sched.checks import one_of, seconds
from fastserve.sched.job import NEVER, Job

SAMPLES = 100
"""Gaps above which a distribution is believed, and turns over which a wait is averaged."""


class Turns:
    """-corr(k, N - k) over the turns k = 1..N of programs that have ended; 0 as long as it is not known."""

    def __init__(self) -> None:
        self.n = self.x = self.y = self.xx = self.yy = self.xy = 0

    def add(self, turns: int) -> None:
        for k in range(1, turns + 1):
            left = turns - k
            self.n += 1
            self.x += k
            self.y += left
            self.xx += k * k
            self.yy += left * left
            self.xy += k * left

    @property
    def eta(self) -> float:
        spread = (self.n * self.xx - self.x**2) * (self.n * self.yy - self.y**2)
        return -(self.n * self.xy - self.x * self.y) / sqrt(spread) if spread > 0 else 0.0


class Continuum(Gate):
    """Rank: (not pinned when it came, arrival of the program's first job).

    rule: "code" or "paper", see above. pin: s, of the code's rule.
    """

    def __init__(self, rule: str = "code", pin: float = 2.0) -> None:
        super().__init__()
        one_of("rule", rule, ("code", "paper"))
        seconds("pin", pin)
        self.paper = rule == "paper"
        self.pin = round(pin * 1e9)
        self.until: dict[str, int] = {}  # ns, of idle programs that are pinned
        self.away: dict[str, tuple[int, str]] = {}  # of idle programs: ns, since when, and the tool that they wait for
        self.called = ""  # the tool that the answer which has just ended calls
        self.gaps = ToolGaps()
        self.pooled = Recent()
        self.unpinned: dict[Job, None] = {}  # turns that came when their program had no pin, the first one excepted
        self.waits: deque[int] = deque(maxlen=SAMPLES)  # ns that such turns waited
        self.turns = Turns()

    # -- pins ------------------------------------------------------------------------------------------------------

    def arrive(self, job: Job) -> None:
        known = self.programs.known.get(job.program)
        if known is not None and not known.inside:
            self.unpinned[job] = None
        super().arrive(job)

    def returned(self, program: Member) -> None:
        if program.name in self.away:
            since, tool = self.away.pop(program.name)
            gap = self.now - since
            self.gaps.add(tool, gap)
            self.pooled.add(gap)
        self.until.pop(program.name, None)
        self.put_first(program, program.inside)

    def depart(self, job: Job) -> None:
        if job in self.unpinned:
            del self.unpinned[job]
            self.waits.append(max(0, self.now - job.arrival - job.served))
        self.called = job.calls
        super().depart(job)

    def left(self, program: Member) -> None:
        self.away[program.name] = self.now, self.called
        if len(self.away) > KEPT:
            del self.away[next(iter(self.away))]
        pinned = self.pinned(self.called, program)
        if not program.inside:
            return
        if pinned:
            self.until[program.name] = self.now + pinned
            self.keep(program.name, self.now + pinned)
        else:
            self.drop(program)

    def over(self, program: Member) -> None:
        self.turns.add(program.turns)
        self.away.pop(program.name, None)
        self.until.pop(program.name, None)

    def drop(self, program: Member) -> None:
        self.until.pop(program.name, None)
        self.keep(program.name, 0)
        super().drop(program)

    def pinned(self, tool: str, program: Member) -> int:
        """For how many ns, from now on, after an answer that calls this tool."""
        gaps = self.gaps.of(tool)
        if not self.paper:
            return self.pin if sum(gaps) <= self.pin * len(gaps) else 0
        wait = sum(self.waits) / len(self.waits) if self.waits else 0.0
        gain = wait * self.turns.eta + self.machine.prefill_ns(max(1, program.context))
        known = gaps if len(gaps) > SAMPLES else self.pooled.values
        if len(known) <= SAMPLES:
            return max(0, round(1e9 * log(gain / 1e9))) if gain > 0 else 0
        best, tau = 0.0, 0
        for i, gap in enumerate(known):
            value = (i + 1) / len(known) * gain - gap
            if value > best:
                best, tau = value, gap
        return tau

    # -- who may come ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        for one in self.members():
            if not one.live and self.until.get(one.name, 0) <= self.now:
                self.drop(one)
        while self.line:
            others, head = self.members(), self.line[0][1]
            sizes = self.sizes([*others, head])
            if others and sum(sizes) > self.machine.pool_tokens:
                idle = [one for one in others if not one.live]
                if len(idle) < len(others):
                    break
                self.drop(idle[-1])
            else:
                self.let_in(head)
        self.ring(min(self.until.values(), default=NEVER))
