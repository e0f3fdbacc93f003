"""A scripted machine and its loop: small made-up runs for check_policy, exact, in whole ticks, one iteration at a time.

Nothing here is fast or realistic. Everything that happens falls on a grid of ticks, so that arrivals, quanta, waits and
ends coincide all the time, and every field of a Plan is used.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple
from zlib import crc32

from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.job import NEVER, Job
from fastserve.sched.link import ModelledLink
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy

JOBS = 32
PATIENCE = 500
"""Wake-ups while nothing runs, after which a policy that still holds everybody back will never release anybody."""
LONGEST_PROMPT = 320
LONGEST_OUTPUT = 32
BLOCK = 16


class Event(NamedTuple):
    """One decision that can be seen from outside. what: joins, leaves, forgets, loads, parks, fetches or ends."""

    at: int  # ns
    what: str
    id: int


class HeldError(RuntimeError):
    """Nothing runs, and the policy holds everybody back for good."""


class StuckError(RuntimeError):
    """Jobs wait and nothing will happen, or the run takes more iterations than its work can need."""


@dataclass(frozen=True)
class Script:
    """What arrives and on what. tick: ns, the grid of all times.

    facts: the keywords of each Job, without its guess. outputs, guesses: tokens, by id. cancels: (ns, id), in order.
    """

    name: str
    tick: int
    config: SchedulerConfig
    blocks: Blocks
    facts: tuple[dict[str, Any], ...]
    outputs: tuple[int, ...]
    guesses: tuple[int, ...]
    cancels: tuple[tuple[int, int], ...]
    limit: int = LONGEST_OUTPUT  # tokens: of each output
    thinks: tuple[int, ...] = ()  # ns, by id: a job comes so long after the one before it has ended; 0: by itself
    otherwise: bool = False  # the body does less than planned, see Run._amend()

    def jobs(self, guessed: bool) -> list[Job]:
        """Fresh jobs, by arrival; with a guess only for a policy that asked for one."""
        return [Job(**facts, guess=self.guesses[facts["id"]] if guessed else None) for facts in self.facts]

    @property
    def enough(self) -> int:
        """Iterations after which any run must have ended: each token may cost one whole prefill, chunk by chunk."""
        chunks = -(-(LONGEST_PROMPT + self.limit) // 8)
        return sum(self.outputs) * (chunks + 1) + len(self.facts)


class ScriptedMachine:
    """Body and machine times in one. A decode takes a tick, more if crowded; 64 prefilled tokens take one more."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.slots = script.config.max_batch
        self.longest = LONGEST_PROMPT
        self.decode_ns = script.tick
        self.output_ns = LONGEST_OUTPUT * script.tick
        self.pool_tokens = self.host_tokens = self.host_prefix_tokens = 0  # the Scheduler says
        self.next_event = NEVER  # ns: filled by the loop before each plan is run
        self.link = ModelledLink(lambda blocks, out: self._copy_ns(blocks))

    def prefill_ns(self, tokens: int) -> int:
        return self._iteration_ns(0, tokens)

    def load_ns(self, tokens: int) -> int:
        return self._copy_ns(-(-tokens // 16))

    def return_ns(self, blocks: int) -> int:
        return 2 * self._copy_ns(blocks)

    def run(self, plan: Plan) -> Outcome:
        stall = self.link.follow(plan)
        outputs = self.script.outputs
        left = {job: outputs[job.id] - job.generated for job in plan.due}
        each = self._iteration_ns(plan.batch, sum(tokens for _, tokens in plan.prefill))
        lookahead = self.script.config.lookahead
        if lookahead and plan.batch:
            return self._uneven(plan, stall, left, each, lookahead)
        k = 0
        while True:
            k += 1
            service = k * each
            now = plan.now + stall + service
            ended = [job for job, tokens in left.items() if tokens <= k]
            landed = self.link.landed(now)
            bound = k >= plan.iterations or service >= plan.service or now >= min(plan.until, self.next_event)
            if bound or ended or landed:
                break
        return Outcome(k, service, stall, ended, landed, stall + each, each)

    def _uneven(self, plan: Plan, stall: int, left: dict[Job, int], each: int, lookahead: int) -> Outcome:
        """One iteration, from which who decodes gets none, one or several tokens."""
        now = plan.now + stall + each
        ended: list[Job] = []
        extra: list[tuple[Job, int]] = []
        for job, most in left.items():
            tokens = 1
            if job.decoding:
                drawn = crc32(b"%d %d" % (plan.now // self.script.tick, job.id)) % (lookahead + 2)
                tokens = min(drawn, most)
            if tokens == most:
                ended.append(job)
            if tokens != 1:
                extra.append((job, tokens - 1))
        return Outcome(1, each, stall, ended, self.link.landed(now), stall + each, each, extra)

    def _iteration_ns(self, batch: int, tokens: int) -> int:
        return self.decode_ns * (1 + batch // 4 + -(-tokens // 64))

    def _copy_ns(self, blocks: int) -> int:
        return self.decode_ns * (1 + blocks // 4)


class Run:
    """One policy on one script. After play(): events, in order; plans is how many were made."""

    def __init__(self, policy: Policy, script: Script, *, macro: bool = False) -> None:
        self.script = script
        self.machine = ScriptedMachine(script)
        self.scheduler = script.config.build(policy, self.machine, script.blocks, macro=macro)
        self.scheduler.ranking.lazy = False  # what rerank() fails to tell must show at once
        self.scheduler.holding.patience = PATIENCE
        self.jobs = script.jobs("guess" in policy.needs)
        self.coming = [(job.arrival, job.id) for job in self.jobs if not self._think(job.id)]  # a heap
        heapify(self.coming)
        self.events: list[Event] = []
        self.now = 0
        self.left = Counter(job.program for job in self.jobs)  # jobs of each program that have not ended
        self.over: list[str] = []  # programs whose last job has ended, of which the Scheduler has yet to be told

    def play(self) -> list[Event]:
        """To the end. Raises PolicyError when the policy breaks, StuckError when the end does not come, HeldError when
        the Scheduler had to overrule the policy.
        """
        for _ in self.boundaries():
            pass
        return self.events

    def boundaries(self) -> Iterator[Plan | None]:
        """Each plan, before it is run: the commit and the inbox are done, and the Scheduler may be asked again."""
        scheduler = self.scheduler
        coming = self.coming
        cancels = list(reversed(self.script.cancels))
        iterations = 0
        while True:
            while coming and coming[0][0] <= self.now:
                scheduler.submit(self.jobs[heappop(coming)[1]], self.now)
            while cancels and cancels[-1][0] <= self.now:
                self._cancel(self.jobs[cancels.pop()[1]])
            while self.over:
                scheduler.end_program(self.over.pop(0), self.now)
            next_event = min(coming[0][0] if coming else NEVER, cancels[-1][0] if cancels else NEVER)
            plan = scheduler.plan(self.now)
            if plan is not None and self.scheduler.held:
                self._check_held(plan)
            yield plan
            if plan is None:
                wakes = min(next_event, scheduler.opens_at())
                if wakes >= NEVER:
                    break
                self.now = max(self.now, wakes)
                scheduler.tick(self.now)
                continue
            self.machine.next_event = next_event
            if self.script.otherwise and plan.joined:  # (there is a boundary there, however many iterations are taken)
                self._amend(plan)
            outcome = self.machine.run(plan)
            iterations += outcome.iterations
            if iterations > self.script.enough:
                raise StuckError(f"{len(scheduler.live)} jobs still live after {iterations} iterations")
            self._log(plan)
            self.now += outcome.stall + outcome.service
            for job in scheduler.commit(plan, outcome, self.now):
                self._ends(job)
        if scheduler.live:
            raise StuckError(
                f"{len(scheduler.live)} jobs wait, such as job {next(iter(scheduler.live)).id}, and nobody runs"
            )

    def _amend(self, plan: Plan) -> None:
        """Of those who are called some do not come, some members lose their KV, and prefills get half their tokens."""

        def drawn(job: Job) -> int:
            return crc32(b"%d %d" % (plan.now // self.script.tick, job.id)) % 8

        absent = [job for job in plan.joined if drawn(job) < 2]
        lost = [job for job in plan.running if job not in plan.left and drawn(job) == 2]
        out = {*absent, *lost}
        half = [(job, -(-tokens // 2)) for job, tokens in plan.prefill if job not in out]
        self.scheduler.amend(plan, prefill=half, absent=absent, lost=lost)

    def _cancel(self, job: Job) -> None:
        if not job.finish:
            self.scheduler.cancel(job, self.now)
            self._ends(job)

    def _ends(self, job: Job) -> None:
        self.events.append(Event(self.now, "ends", job.id))
        self.left[job.program] -= 1
        if not self.left[job.program]:
            self.over.append(job.program)
        think = self._think(job.id + 1)
        if think:
            later = self.jobs[job.id + 1]
            later.arrival = later.last = later.since = self.now + think
            heappush(self.coming, (later.arrival, later.id))

    def _think(self, id: int) -> int:
        return self.script.thinks[id] if id < len(self.script.thinks) else 0

    def _check_held(self, plan: Plan) -> None:
        """Raises HeldError where somebody joins though it is held back."""
        held = self.scheduler.held
        for job in plan.joined:
            if job in held:
                every = f"holds back every live job, such as job {job.id}, while nothing runs"
                if any(other.waited for other in held):
                    raise HeldError(
                        f"{every}, was woken {PATIENCE} times in a row and has released none: release one in alarm() "
                        f"when nothing runs any more, for nobody may starve"
                    )
                raise HeldError(
                    f"{every}, and none of them has a `waited` alarm, so nobody would ever be woken: release one in "
                    f"depart() or ended(), or set the job an alarm with self.wake(job, waited=...) when you hold it, "
                    f"and release it when that rings"
                )

    def _log(self, plan: Plan) -> None:
        for what, jobs in (
            ("leaves", plan.left),
            ("forgets", plan.drop),
            ("parks", [copy.job for copy in plan.park]),
            ("joins", plan.joined),
            ("loads", [copy.job for copy in plan.load]),
            ("fetches", [copy.job for copy in plan.prefetch]),
        ):
            self.events += [Event(plan.now, what, job.id) for job in jobs]


SHAPES: dict[str, dict[str, Any]] = {
    "queue": {"batching": "chunked", "token_budget": 64},
    "burst": {"batching": "mixed", "token_budget": 256},
    "recompute": {"residency": "recompute", "visit": 0, "token_budget": 64, "spare": 6},
    "swap": {"residency": "reactive", "visit": 0, "token_budget": 64, "spare": 10, "host": 2},
    "ahead": {"residency": "proactive", "visit": 1, "token_budget": 64, "spare": 14, "host": 4, "kv_reserve": 4},
    "prefill-first": {"batching": "prefill-first", "residency": "recompute", "visit": 2, "spare": 12},
    "shared": {"residency": "recompute", "visit": 0, "token_budget": 64, "spare": 4, "prefix_cache": "on"},
    "uneven": {"residency": "recompute", "visit": 0, "token_budget": 64, "spare": 10, "lookahead": 2},
    "otherwise": {"residency": "recompute", "visit": 0, "token_budget": 64, "spare": 6, "otherwise": True},
}  # fmt: skip
"""Scheduler settings by name. spare: blocks that the device pool has beyond the largest job's. host: of how many of the
largest jobs the host pool takes the blocks. otherwise: the body does less than planned. lookahead: jobs get none, one
or several tokens from an iteration.
"""

TICKS = (1_000_000, 20_000_000, 5_000_000)
"""ns, by seed: quanta and waits that are given in seconds should meet a fast machine and a slow one."""


def write(shape: str, seed: int, tick: int = 0, longer: int = 1) -> Script:
    """The script of this shape and seed: thirty-two jobs that overload few slots, in groups that arrive together.

    tick: ns; 0: the seed's. longer: makes each output so many times as long.
    """
    rng = random.Random(f"{shape} {seed}")
    scaled = f", a tick of {tick / 1e9:g} s" if tick else ""
    scaled += f", outputs {longer} times as long" if longer > 1 else ""
    tick = tick or TICKS[seed % len(TICKS)]
    limit = longer * LONGEST_OUTPUT
    biggest = -(-(LONGEST_PROMPT + limit) // BLOCK)
    settings = dict(SHAPES[shape])
    slots = 2 if shape == "burst" else rng.choice([3, 4, 6])
    spare = settings.pop("spare", None)
    otherwise = settings.pop("otherwise", False)
    blocks = Blocks(None if spare is None else biggest + spare, settings.pop("host", 0) * biggest)
    closed = settings.get("prefix_cache") == "on"
    facts: list[dict[str, Any]] = []
    outputs = []
    cancels = []
    at = 0
    for id in range(JOBS):
        outputs.append(longer * min(LONGEST_OUTPUT, 1 + int(rng.expovariate(1 / 10))))
        deadline = NEVER if id % 3 == 0 else at + rng.randint(1, 400) * tick
        facts.append({
            "id": id, "arrival": at, "prompt": min(LONGEST_PROMPT, 1 + int(rng.expovariate(1 / 80))),
            "limit": limit, "client": f"client-{rng.randrange(4)}", "program": f"program-{id // 3}",
            "priority": rng.randrange(4), "deadline": deadline,
            "tool": ("", "bash", "search")[id % 3], "final": id % 3 == 2,
        })  # fmt: skip
        if closed:
            facts[-1]["ids"] = _units(id // 3, facts[-1]["prompt"])
        if rng.random() < 0.15 and not (closed and id % 3):
            cancels.append((at + rng.randint(0, 150) * tick, id))
        if rng.random() < 0.7:
            at += rng.randint(1, 12) * tick
    guesses = [max(1, round(tokens * rng.choice([0.5, 1, 1, 2]))) for tokens in outputs]
    thinks = [rng.choice((1, 2, 4, 20)) * tick if closed and id % 3 else 0 for id in range(JOBS)]
    config = SchedulerConfig(max_batch=slots, **settings)
    return Script(f"{shape}, seed {seed}{scaled}", tick, config, blocks, tuple(facts), tuple(outputs), tuple(guesses),
                  tuple(sorted(cancels)), limit, tuple(thinks), otherwise)  # fmt: skip


def _units(program: int, prompt: int) -> list[int]:
    """The same beginning for all, then one for each program."""
    return [unit if unit < 2 else 100 * (program + 1) + unit for unit in range(prompt // BLOCK)]
