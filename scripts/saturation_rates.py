"""python scripts/saturation_rates.py [--reps 400]

How often metrics.saturation marks a queue whose load is known: its false alarms below 1 and its detections above. Plain
queues, many repetitions at once in NumPy: Lindley's recursion for one server, Kiefer and Wolfowitz's for several. The
service time is 1 in the mean, an empty system at the start. Prints the table of docs/statistics.md (minutes).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.saturation import saturated_flow

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

LOADS = (0.9, 0.98, 0.99, 1.02, 1.05)
LENGTHS = (2_000, 20_000, 50_000)
BATCH = 50  # repetitions at once


def poisson(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.exponential(1.0, shape)


def bursty(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Gamma gaps, cv 2."""
    return rng.gamma(0.25, 4.0, shape)


def constant(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.ones(shape)


QUEUES: dict[str, tuple[Draw, Draw, int]] = {
    "M/D/1": (poisson, constant, 1),
    "M/M/1": (poisson, poisson, 1),
    "M/M/4": (poisson, poisson, 4),
    "M/M/16": (poisson, poisson, 16),
    "M/D/64": (poisson, constant, 64),
    "gamma cv 2/D/1": (bursty, constant, 1),
}
"""Name -> gaps and services of mean 1, servers."""


def lindley(arrival: Floats, service: Floats) -> Floats:
    """Ends of the jobs of one server, first come first served; repetitions x jobs."""
    work = np.cumsum(service, axis=1)
    idle = np.maximum.accumulate(arrival - work + service, axis=1)
    return idle + work


def kiefer_wolfowitz(arrival: Floats, service: Floats, servers: int) -> Floats:
    """The same for several servers."""
    free = np.zeros((len(arrival), servers))
    end = np.empty_like(arrival)
    for job in range(arrival.shape[1]):
        end[:, job] = free[:, 0] = np.maximum(free[:, 0], arrival[:, job]) + service[:, job]
        free.sort(axis=1)
    return end


def runs(queue: str, load: float, n: int, reps: int, seed: int = 1) -> Iterator[tuple[Floats, Floats]]:
    """Arrivals and ends of each repetition."""
    gaps, services, servers = QUEUES[queue]
    rng = np.random.default_rng([seed, n, round(1000 * load)])
    for first in range(0, reps, BATCH):
        shape = (min(BATCH, reps - first), n)
        arrival = np.cumsum(gaps(rng, shape), axis=1) / (load * servers)
        service = services(rng, shape)
        end = lindley(arrival, service) if servers == 1 else kiefer_wolfowitz(arrival, service, servers)
        yield from zip(arrival, end, strict=True)


def share(queue: str, load: float, n: int, reps: int, seed: int = 1) -> float:
    """Of the repetitions that are marked as saturated."""
    return float(np.mean([saturated_flow(arrival, end) for arrival, end in runs(queue, load, n, reps, seed)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=400)
    reps = parser.parse_args().reps
    print("| queue | jobs | " + " | ".join(f"load {load:g}" for load in LOADS) + " |")
    print("|---|---|" + "---|" * len(LOADS))
    for queue in QUEUES:
        for n in LENGTHS:
            marked = [f"{100 * share(queue, load, n, reps):.1f} %" for load in LOADS]
            print(f"| {queue} | {n:,} | " + " | ".join(marked) + " |", flush=True)


if __name__ == "__main__":
    main()
