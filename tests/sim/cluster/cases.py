"""Random runs of small clusters, in which ties, shortages, old views and faults are common."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.policies.spec import PolicySpec
from fastserve.routers import Router, RouterFacts
from fastserve.routers.spec import RouterSpec
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job
from fastserve.workload import Trace
from sim.settings import Settings
from tests.sim.cluster.spec import NAMES, seen
from tests.sim.test_sessions_exact import programs

MS = 1_000_000
SHARES = {"looks": 0.8, "guess": 0.8, "some": 0.4}
POLICIES = ("fcfs", "sj-mlfq", "srpt", "las", "mlfq", "program-fcfs", "plas")


class Looks(Router):
    """Goes by everything that it sees, and keeps it. looks: at all fields, else at the sender's own counts. some: at
    some fields of some views, others for each job, now and then at all.
    """

    def __init__(self, looks: bool = True, guess: bool = True, some: bool = False) -> None:
        self.looks = looks
        self.some = some
        self.needs = frozenset({"guess"}) if guess else frozenset()  # type: ignore[misc]
        self.told: list[Any] = []

    def begin(self, facts: RouterFacts) -> None:
        super().begin(facts)
        self.told.append(facts)

    def route(self, job: Job, views: list[ReplicaView]) -> int:  # type: ignore[override]
        if self.looks and self.some:
            rng = random.Random(len(self.told))
            share = rng.choice([0.1, 0.3, 1])
            found = [tuple(getattr(view, name) for name in NAMES if rng.random() < share) for view in views]
        elif self.looks:
            found = [seen(view) for view in views]
        else:
            found = [(view.replica, view.outstanding, view.outstanding_tokens) for view in views]  # type: ignore[misc]
        self.told.append((job.id, job.guess, found))
        return sum(hash(field) for one in found for field in one if isinstance(field, int)) % len(views)

    def sent(self, job: Job, replica: int, now: int) -> None:
        self.told.append(("sent", job.id, replica, now))

    def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
        self.told.append(("ended", job.id, replica, now, tokens))

    def failed(self, job: Job, replica: int, now: int) -> None:
        self.told.append(("failed", job.id, replica, now))

    def lost(self, replica: int, now: int) -> None:
        self.told.append(("lost", replica, now))

    def came(self, replica: int, name: str, weight: float, now: int) -> None:
        self.told.append(("came", replica, name, weight, now))


def machine(folder: Path, coarse: bool) -> str:
    """A latency file: whole milliseconds, or not even whole nanoseconds."""
    path = folder / f"{'coarse' if coarse else 'fine'}.json"
    step = {"kind": "linear", "name": path.stem, "prefill_ms": 1, "decode_ms": 2}
    if coarse:
        step |= {"prefill_ms_per_token": 0.125}
    else:
        step |= {"prefill_ms_per_token": 0.130700419, "decode_ms": 1.9, "decode_ms_per_context_token": 0.003170037}
    path.write_text(json.dumps(step))
    return str(path)


def requests(rng: random.Random) -> Trace:
    """Without programs."""
    n = rng.randint(5, 60)
    gap = rng.choice([1, 5, 20, 60])
    arrival = np.cumsum([rng.choice([0, 0, 1, rng.randint(0, 2 * gap)]) for _ in range(n)]) * MS
    prompt = np.array([1 + int(rng.expovariate(1 / 60)) for _ in range(n)], np.int64)
    mean = rng.choice([25, 25, 80])
    output = np.array([1 + int(rng.expovariate(1 / mean)) for _ in range(n)], np.int64)
    arrival = arrival.astype(np.int64)
    return Trace("random", "made", arrival - arrival[0], prompt, output)


def case(rng: random.Random, folder: Path, faults: bool = True) -> tuple[Trace, PolicySpec, Settings]:
    sessions = rng.random() < 0.4
    trace = programs(rng) if sessions else requests(rng)
    how: dict[str, Any] = {}
    if sessions:
        how = rng.choice([{"sessions": rng.randint(1, 8)}, {"program_rate": rng.choice([0.1, 1.0])}, {}])
        if rng.random() < 0.4:
            how["client_timeout"] = rng.choice([0.05, 0.3, 1.0])
    replicas = rng.randint(1, 4)
    coarse = rng.random() < 0.6
    if rng.random() < 0.3:
        how["speculate"] = rng.choice(["2:0.7", "fixed:2:0.6", "3:0.02", "4:0.02"])
    if rng.random() < 0.5:  # copies that take several iterations
        how |= {"link_gb_s": 0.02, "link_latency": rng.choice([0.0, 0.005])}
    if rng.random() < 0.3:
        how["replica"] = ("max_batch=1,weight=2",)
    if faults and rng.random() < 0.6:
        for what in ("fail", "drain"):
            found = []
            for number in range(replicas):
                if rng.random() < 0.4:
                    at = rng.choice([0, 3, 17, 40, 100, 300]) / 1e3 + (0 if coarse else rng.random() / 1e3)
                    back = f":back@{at + rng.choice([1, 20, 100]) / 1e3:.9f}" if rng.random() < 0.7 else ""
                    found.append(f"{number}@{at:.9f}{back}")
            how[what] = tuple(found)
        how["drain"] = tuple(one for one in how["drain"] if one[0] not in {other[0] for other in how["fail"]})
        how["resend"] = rng.choice(["unstarted", "all"])
    settings = Settings(
        latency=machine(folder, coarse), max_batch=rng.choice([1, 2, 5]), block_tokens=16, replicas=replicas,
        kv_tokens=rng.choice([400, 700, 1500, "unlimited"]), host_tokens=rng.choice([0, 2000]),
        token_budget=rng.choice([16, 64]), batching=rng.choice(["mixed", "chunked", "prefill-first"]),
        residency=rng.choice(["recompute", "reactive", "proactive"]), visit=rng.choice([0, 64]),
        router=RouterSpec(Looks, {name: rng.random() < share for name, share in SHARES.items()}),
        hop=rng.choice([0, 0, 0.001, 0.0137]), view_delay=rng.choice([0, 0, 0.002, 0.05, 0.5]),
        predictor=rng.choice(["oracle", "constant:9", "none", "oracle"]), **how,
    )  # fmt: skip
    names = [name for name in POLICIES if not (settings.predictor == "none" and name == "srpt")]
    return trace, PolicySpec(rng.choice(names)), settings
