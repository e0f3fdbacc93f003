"""One random case: settings of vLLM and of ours, a workload, and what happens to it. As JSON it can be run again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from tests.vllm.runner import generate

HERE = "tests.vllm.policies:"
ODD = ["Rotate", "Chaos", "Dice", "Liar", "Holder", "Warden"]
HOOKS = ["rank", "arrive", "alarm", "depart", "coldest", "ended", "explain"]
NAMED = [
    "fcfs",
    "srpt",
    "sjf",
    "las",
    "mlfq",
    "sj-mlfq",
    "priority",
    "lpm",
    "cachewise",
    "plas",
    "concur",
    "program-fcfs",
    "atlas",
    "deepest-first",
    "fixed-priority",
    "working-set",
    "continuum",
]  # not thunder: who tells it of no program's end waits for half an hour
BAD_GUESSES: list[Any] = ["many", None, -3, float("nan"), float("inf"), [], {"a": 1}, 1e300, True, "7"]
MODEL_LENGTH = 512  # tokens of prompt and answer at most
BLOCK = 16  # tokens
LONGEST = 384  # tokens of prompt and answer here, which fit into the smallest pool that is drawn, with drafts
STOPS = (5, 6)


class Arrival(NamedTuple):
    at: int  # ns
    id: str
    prompt: list[int]
    most: int
    extra: dict[str, Any]
    grammar: str  # "": none; "late": ready after a while; "broken": cannot be compiled


@dataclass(frozen=True)
class Case:
    """policy "plain": vLLM's own scheduler, without ours. gap: ms between arrivals on average, 0: all at once. rows:
    vLLM's max_num_seqs. drafts: tokens of speculation. aborts, resets, pauses: chances of one at each step. guesses:
    "right", "none" or "bad". depth: steps in flight at most, where ahead.
    """

    seed: int = 0
    policy: str = "plain"
    knobs: dict[str, Any] = field(default_factory=dict)
    leave: str = "park"
    cache: str = "auto"
    visit: int = 64
    slots: int = 4
    rows: int = 16
    blocks: int = 60
    budget: int = 512
    watermark: float = 0.0
    prefix: bool = False
    ahead: bool = False
    v2: bool = False
    drafts: int = 0
    requests: int = 20
    gap: float = 20
    shared: int = 0
    talks: bool = False
    stops: bool = False
    aborts: float = 0.0
    resets: float = 0.0
    pauses: float = 0.0
    grammars: float = 0.0
    guesses: str = "right"
    stats: bool = False

    @property
    def ours(self) -> bool:
        return self.policy != "plain"

    @property
    def breaks(self) -> bool:
        """Its policy is one that will fail."""
        return self.policy.endswith(":Breaks")

    @property
    def repeatable(self) -> bool:
        """Its policy answers the same question alike, so that its flight log can be replayed."""
        return not self.policy.endswith(":Dice")

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return STOPS if self.stops else ()

    @classmethod
    def of(cls, text: str) -> Self:
        """From JSON, of `str(case)` or a part of it."""
        told = json.loads(text)
        unknown = set(told) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"a case has no {', '.join(sorted(unknown))}")
        return cls(**told)

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def __str__(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value != getattr(PLAIN, name)})

    def arrivals(self) -> list[Arrival]:
        """The workload, by time."""
        rng = random.Random(self.seed)
        claims = random.Random(self.seed + 1)  # of its own, so that the requests do not depend on what is said of them
        shared = [rng.randrange(60, 1000) for _ in range(self.shared)]
        at = 1_000_000.0
        found: list[Arrival] = []
        talks: list[list[int]] = []
        for number in range(self.requests):
            at += rng.expovariate(1 / (self.gap * 1e6)) if self.gap else 0
            prompt = [rng.randrange(60, 1000) for _ in range(rng.randrange(4, 150))]
            if talks and self.talks and rng.random() < 0.5:
                prompt = rng.choice(talks) + prompt[:40]
            elif rng.random() < 0.7:
                prompt = shared + prompt
            prompt = prompt[: LONGEST - 8]
            most = max(1, min(200, int(rng.paretovariate(1.1) * 6), LONGEST - len(prompt)))
            if self.talks:
                talks.append(prompt + generate(prompt, most, self.stop_tokens))
            extra: dict[str, Any] = {"client": f"c{number % 3}", "program": f"p{number % 4}" if self.talks else ""}
            if self.guesses == "right":
                extra["guess"] = most
            elif self.guesses == "bad":
                extra["guess"] = claims.choice(BAD_GUESSES)
                extra["slo"] = claims.choice([*BAD_GUESSES, 0.5, 3])
            grammar = ""
            if rng.random() < self.grammars:
                grammar = "broken" if rng.random() < 0.2 else "late"
            found.append(Arrival(round(at), str(number), prompt, most, extra, grammar))
        return found


PLAIN = Case()


def draw(rng: random.Random, policies: list[str] | None = None) -> Case:
    """A random one."""
    kind = rng.random()
    knobs: dict[str, Any] = {}
    if policies:
        policy = rng.choice(policies)
    elif kind < 0.08:
        policy = "plain"
    elif kind < 0.5:
        policy = rng.choice(NAMED)
    elif kind < 0.75:
        policy = HERE + rng.choice(ODD)
    else:
        policy = HERE + "Breaks"
        knobs = {
            "hook": rng.choice(HOOKS),
            "after": rng.choice([0, 1, 10, 60, 300]),
            "how": rng.choice(["raise", "raise", "odd", "exit", "outside"]),
        }
    slots = rng.choice([1, 2, 4, 8])
    drafts = rng.choice([0, 0, 0, 2])
    return Case(
        seed=rng.randrange(10**6), policy=policy, knobs=knobs, leave=rng.choice(["park", "park", "recompute"]),
        cache=rng.choice(["auto", "auto", "off"]), visit=rng.choice([64, 64, 0]), slots=slots,
        rows=slots * rng.choice([1, 2, 4, 8]), blocks=rng.choice([26, 34, 60, 400]),
        budget=max(slots * (1 + drafts) + rng.choice([1, 8, 40]), rng.choice([0, 512])),
        watermark=rng.choice([0.0, 0.0, 0.0, 0.02, 0.1, 0.3]), prefix=rng.random() < 0.6, ahead=rng.random() < 0.6,
        v2=rng.random() < 0.5, drafts=drafts, requests=rng.choice([12, 40]), gap=rng.choice([0, 1, 20, 80]),
        shared=rng.choice([0, 0, 64]), talks=rng.random() < 0.3, stops=rng.random() < 0.5,
        aborts=rng.choice([0, 0, 0.05]), resets=rng.choice([0, 0, 0.01]), pauses=rng.choice([0, 0, 0, 0.01]),
        grammars=rng.choice([0, 0, 0.2]), guesses=rng.choice(["right", "right", "none", "bad"]),
        stats=rng.random() < 0.3,
    )  # fmt: skip


def smaller(case: Case) -> Iterator[Case]:
    """Simpler cases, to try whether one of them fails as well: see fuzz.shrink()."""
    for name, value in asdict(PLAIN).items():
        if getattr(case, name) != value and name not in ("seed", "policy", "knobs"):
            yield case.but(**{name: value})
    if case.requests > 2:
        yield case.but(requests=case.requests // 2)
        yield case.but(requests=case.requests - 1)
