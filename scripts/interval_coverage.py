"""How often do the 95 % intervals hold the long-run ratio of fcfs over srpt?

    python scripts/interval_coverage.py --out coverage.json

Each repetition does what a user does: `python -m sim --synth ... --policy fcfs --policy srpt --seeds K`, with seeds of
its own. Its interval should hold the long-run ratio in 95 of a hundred. Long run is taken twice: as the mean over runs
of the same length, which is what the interval estimates, and as one run of many requests, which shows what a finite run
that begins empty leaves out. docs/statistics.md has the figures; 200 repetitions take some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import sim
from fastserve.metrics.intervals import ENOUGH, paired_ratio
from fastserve.workload.seeds import Recorded, source_of

POLICIES = ("fcfs", "srpt")
MACHINE: dict[str, Any] = {"latency": "opt-13b-a100", "max_batch": 4, "progress": False, "processes": 1}


@dataclass(frozen=True, slots=True)
class Traffic:
    """synth: all but n and rate. load: in units of what fcfs sustains."""

    synth: str
    load: float


TRAFFIC = {
    "poisson 0.7": Traffic("arrivals=poisson,lengths=profile:azure-conv-2023", 0.7),
    "bursts 0.7": Traffic("arrivals=gamma:cv=4,lengths=profile:azure-conv-2023", 0.7),
    "poisson 0.9": Traffic("arrivals=poisson,lengths=profile:azure-conv-2023", 0.9),
}
SEEDS = (4, 5, 8)
"""Of a repetition; fewer are the first of the most."""


def means(job: tuple[Traffic, int, list[int]]) -> list[list[float]]:
    """Mean completion times, s: a row for each policy, a column for each seed."""
    traffic, n, seeds = job
    result = sim.replay(synth=f"n={n},{traffic.synth}", policy=POLICIES, seeds=seeds, load=traffic.load, **MACHINE)
    found = {(run.policy, run.seed): float(run.summary["mean_jct_s"] or 0) for run in result.runs}
    return [[found[policy, seed] for seed in seeds] for policy in POLICIES]


def resampled(job: tuple[Traffic, int, int, str, int]) -> list[list[float]]:
    """The same over resamples of one draw, which stands for a recorded trace."""
    traffic, n, seed, how, seeds = job
    rate = rate_of(traffic)
    trace = source_of(None, f"n={n},rate={rate},{traffic.synth}").trace(seed)
    found = sim.replay(Recorded(trace, how, None, seeds), POLICIES, seeds=seeds, **MACHINE).runs
    times = {(run.policy, run.seed): float(run.summary["mean_jct_s"] or 0) for run in found}
    return [[times[policy, seed] for seed in range(seeds)] for policy in POLICIES]


def rate_of(traffic: Traffic) -> float:
    shown = sim.replay(synth=f"n=2,{traffic.synth}", load=traffic.load, **MACHINE).settings
    return float(shown["rate"])


def share(pairs: Sequence[Sequence[Sequence[float]]], truth: float, seeds: int, samples: int | None = None) -> float:
    """Of intervals that hold the truth."""
    held = []
    for base, other in pairs:
        _, low, high = paired_ratio(base[:seeds], other[:seeds], samples=samples)
        held.append(low is not None and high is not None and low <= truth <= high)
    return float(np.mean(held))


def measure(name: str, args: argparse.Namespace, pool: ProcessPoolExecutor) -> dict[str, Any]:
    traffic = TRAFFIC[name]
    most = max(SEEDS)
    jobs = [(traffic, args.n, list(range(most * i, most * (i + 1)))) for i in range(args.repetitions)]
    pairs = list(pool.map(means, jobs))
    base, other = np.array(pairs).mean(axis=(0, 2))
    truth = float(base / other)
    long = next(iter(pool.map(means, [(traffic, args.long, [10**6])])))
    steady = long[0][0] / long[1][0]
    found: dict[str, Any] = {"load": traffic.load, "synth": traffic.synth, "n": args.n, "repetitions": args.repetitions}
    found |= {"long_run_ratio": truth, "one_long_run": steady, "requests_of_it": args.long}
    if args.pairs is not None:
        np.save(args.pairs / f"{name.replace(' ', '-')}.npy", np.array(pairs))
    found["coverage"] = {k: share(pairs, truth, k) for k in SEEDS}
    found["coverage_of_one_long_run"] = {k: share(pairs, steady, k) for k in SEEDS}
    reach = [paired_ratio(a, b) for a, b in pairs]
    found["median_half_width"] = float(np.median([(high - low) / 2 / mean for mean, low, high in reach]))  # type: ignore[operator]
    for how in args.recorded:
        samples = 1 if how == "blocks" else None
        again = list(
            pool.map(resampled, [(traffic, args.trace, 10**7 + i, how, most) for i in range(args.repetitions)])
        )
        found[f"coverage_of_{how}"] = {
            k: share(again, steady, k, samples) for k in SEEDS if how != "windows" or k == most
        }
        found["requests_of_a_recorded_trace"] = args.trace
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("-n", type=int, default=1000, help="requests of a run (%(default)s)")
    parser.add_argument("--long", type=int, default=400_000, help="requests of the long run (%(default)s)")
    parser.add_argument("--trace", type=int, default=4000, help="requests of a recorded trace (%(default)s)")
    parser.add_argument("--traffic", action="append", choices=TRAFFIC, help="which (all)")
    parser.add_argument(
        "--recorded", nargs="*", default=[], choices=("blocks", "windows", "pairs"), help="resamples too"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--pairs", type=Path, metavar="FOLDER", help="keep the mean completion times there")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    with ProcessPoolExecutor(args.jobs) as pool:
        found = {name: measure(name, args, pool) for name in args.traffic or TRAFFIC}
    text = json.dumps({"enough": ENOUGH, "traffic": found}, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
