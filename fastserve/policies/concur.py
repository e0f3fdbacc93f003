"""CONCUR (arXiv 2601.22705, ICML'26): a window of agents at work, opened and halved by how the KV cache does.

Additive increase, multiplicative decrease, as TCP does it. U: share of the KV pool that live jobs use; H: hit rate of
the prefix cache. Every period: U below `low`, W += `add`; U above `high` and H below `hits`, W *= `cut`; else W stays.
The W oldest programs take turns, the others are held back; it acts between turns only.
"""

from __future__ import annotations

from fastserve.policies.gate import Gate, Member
from fastserve.sched.checks import at_least, number, seconds
from fastserve.sched.job import NEVER, Job

MOST = 1_000_000
"""Programs: a window that large holds nobody back."""


class Concur(Gate):
    """Rank: arrival; nobody is displaced but for memory.

    first: programs in the window at the start. period: s between looks. window: s of which H is taken. low, high,
    hits, add, cut: see above. The paper publishes the last five and not the first three.
    """

    def __init__(
        self,
        first: int = 1,
        period: float = 5.0,
        window: float = 60.0,
        low: float = 0.2,
        high: float = 0.5,
        hits: float = 0.2,
        add: int = 2,
        cut: float = 0.5,
    ) -> None:
        super().__init__()
        at_least("first", first, 1)
        at_least("add", add, 1)
        seconds("period", period)
        seconds("window", window)
        if period == 0:
            raise ValueError("period=0: give the seconds between two looks")
        for name, value in (("low", low), ("high", high), ("hits", hits), ("cut", cut)):
            number(name, value, 0)
        self.open = float(first)
        self.period = round(period * 1e9)
        self.window = round(window * 1e9)
        self.low, self.high, self.least, self.add, self.cut = low, high, hits, add, cut
        self.periods = 0  # that have been looked at

    def rank(self, job: Job) -> tuple[bool, int]:
        return False, job.arrival

    @property
    def size(self) -> int:
        """Programs that the window takes."""
        return max(1, int(self.open))

    def look(self) -> None:
        passed = self.now // self.period - self.periods
        if passed > 0:
            self.periods += passed
            self._adjust(passed)
        more = len(self.inside) - self.size
        if more > 0:
            for idle in [one for one in reversed(self.members()) if not one.live][:more]:
                self.drop(idle)
        while self.line and len(self.inside) < self.size:
            self.let_in(self.line[0][1])
        self.ring((self.periods + 1) * self.period)

    def _adjust(self, passed: int) -> None:
        """So many periods have passed, for nobody rings while nobody is held. It grows for each, and is cut once."""
        pool = self.machine.pool_tokens
        used = self.pool_used / pool if pool < NEVER else 0.0
        found, asked = self.hits(self.window)
        if used < self.low:
            self.open = min(MOST, self.open + self.add * passed)
        elif used > self.high and asked and found < self.least * asked:
            self.open = max(1.0, self.open * self.cut)

    def misfit(self, program: Member) -> str:
        tokens = self.sizes([*self.members(), program])[-1]
        return f"the window of {self.size} programs is full, and its program has {tokens:,} tokens"
