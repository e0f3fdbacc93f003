"""ThunderAgent (arXiv 2602.13692, ICML'26): programs are paused, smallest first, while their contexts exceed the pool.

As its released code (scheduler/router.py) on one replica. A program is reasoning (it has a live job) or acting (idle),
active or paused. Room: the pool less the tokens of active programs, idle ones in full, and `buffer` for each of them.
A new program starts at once if nobody waits and it fits; later turns of an active one are never checked. Every `tick`:

resume: while there is room, paused programs that wait, then new ones, in each the smallest first, misfits skipped;
whoever has waited `forced` comes in all the same. With `decay`, idle tokens count 2^-t here after t s.
pause: while there is no room, idle programs, smallest first; then those that reason are marked, smallest first, and
pause at the end of their turn. A mark frees nothing yet, so that all of them get marked.
"""

from __future__ import annotations

from fastserve.policies.gate import Gate, Member
from fastserve.sched.checks import at_least, seconds
from fastserve.sched.job import Job


class Thunder(Gate):
    """Rank: arrival; nobody is displaced but for memory.

    tick: s. buffer: tokens. forced: s. decay: see above; on in the paper, off by default in its code and here.
    """

    def __init__(self, tick: float = 5.0, buffer: int = 100, forced: float = 1800.0, decay: bool = False) -> None:
        super().__init__()
        seconds("tick", tick)
        seconds("forced", forced)
        at_least("buffer", buffer, 0)
        if tick == 0:
            raise ValueError("tick=0: give the seconds between two looks")
        self.period = round(tick * 1e9)
        self.buffer = buffer
        self.forced = round(forced * 1e9)
        self.decay = decay
        self.periods = 0
        self.marked: dict[str, None] = {}

    def rank(self, job: Job) -> tuple[bool, int]:
        return False, job.arrival

    def returned(self, program: Member) -> None:
        if not program.entered and len(self.line) == 1 and self.room(decay=False) >= self.cost(program):
            self.let_in(program)

    def left(self, program: Member) -> None:
        if self.marked.pop(program.name, "") is None and program.inside:
            self.drop(program)

    def over(self, program: Member) -> None:
        self.marked.pop(program.name, None)

    def look(self) -> None:
        periods = self.now // self.period
        if periods > self.periods:
            self.periods = periods
            self._resume()
            self._pause()
        self.ring((self.periods + 1) * self.period)

    def cost(self, program: Member) -> int:
        return program.tokens + self.buffer

    def order(self, program: Member) -> tuple[bool, int, tuple[int, str]]:
        """Of those that wait: who was paused before who is new, then the smallest."""
        return not program.entered, program.tokens, program.age

    def room(self, decay: bool) -> float:
        """Tokens; below 0 they have outgrown the pool."""
        taken = 0.0
        for one in self.members():
            fade = 1.0 if one.live or not decay else 0.5 ** min(60.0, (self.now - one.idle) / 1e9)
            taken += one.tokens * fade + self.buffer
        return self.machine.pool_tokens - taken

    def _resume(self) -> None:
        room = self.room(self.decay)
        for one in sorted([one for _, one in self.line], key=self.order):
            cost = self.cost(one)
            if cost <= room or self.now - one.asked >= self.forced or not self.inside:
                room -= cost
                self.let_in(one)

    def _pause(self) -> None:
        room = self.room(decay=False)
        smallest = sorted(self.members(), key=lambda one: (bool(one.live), one.tokens, one.age))
        for one in smallest:
            if room >= 0:
                return
            if one.live:
                self.marked[one.name] = None
            else:
                room += self.cost(one)
                self.drop(one)
