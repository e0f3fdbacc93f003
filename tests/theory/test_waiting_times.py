"""First come, first served in a batch of one is the M/G/1 queue of the textbooks."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve.policies import make
from tests.theory.single_server import SECOND, Queue, mean_jct, poisson

MICRO = 1000  # ns: the grain of service times


def test_waits_follow_lindleys_recursion() -> None:
    """W[n+1] = max(0, W[n] + S[n] - A[n+1]), to the nanosecond, for any sizes and arrivals."""
    rng = np.random.default_rng(1)
    n = 4000
    sizes = [int(size) for size in rng.integers(1, 2_000_000, n)]
    arrival = poisson(rng, n, 1.3e9)
    waited = Queue(arrival, sizes, [1] * n, token_ns=MICRO).serve(make("fcfs"))["queued"]
    wait = 0
    for i in range(n):
        assert round(waited[i] * SECOND) == wait
        if i + 1 < n:
            wait = max(0, wait + sizes[i] * MICRO - (arrival[i + 1] - arrival[i]))


@pytest.mark.parametrize("sizes", ["deterministic", "exponential"])
def test_mean_wait_is_pollaczek_khinchines(sizes: str) -> None:
    """M/D/1 and M/M/1: E[W] = lambda E[S^2] / (2 (1 - rho)), half full, within 2 %.

    The moments are those of the sample, which takes its luck with arrivals and sizes out of the comparison; over seeds
    the ratio has a standard deviation of about 1.0 % (M/D/1) and 1.3 % (M/M/1) at this length.
    """
    rng = np.random.default_rng(0)
    n = 80_000
    million = 1_000_000  # tokens of 1 microsecond: a mean of 1 s
    drawn = np.full(n, million) if sizes == "deterministic" else np.maximum(1, rng.exponential(million, n).astype(int))
    arrival = poisson(rng, n, 2e9)
    waited = Queue(arrival, [int(size) for size in drawn], [1] * n, token_ns=MICRO).serve(make("fcfs"))["queued"]
    seconds = drawn / million
    rate = n / (arrival[-1] / SECOND)
    theory = rate * float(np.mean(seconds**2)) / (2 * (1 - rate * float(np.mean(seconds))))
    assert float(np.mean(waited)) == pytest.approx(theory, rel=0.02)


@pytest.mark.parametrize("name", ["las", "mlfq"])
def test_exponential_sizes_have_the_mean_of_processor_sharing(name: str) -> None:
    """A policy that learns nothing of what remains of a job has one E[JCT], whatever its order: that of fcfs.

    In M/M/1 it is 1 / (mu - lambda). In whole iterations of length d, with mean size s and rho = lambda s, it is
    s + lambda (2 s^2 - s d) / (2 (1 - rho)), which becomes the former as d goes to 0; half full they differ by 1.3 %.
    Sizes are geometric, 20 iterations in the mean; a quantum is 4 of them, doubling with each level of mlfq.
    """
    rng = np.random.default_rng(0)
    n = 6_000
    step = SECOND // 20
    output = [int(size) for size in rng.geometric(1 / 20, n)]
    arrival = poisson(rng, n, 2e9)
    quantum = {"las": {"quantum": 0.2}, "mlfq": {"alpha": 0.0, "q1": 0.2}}[name]
    queue = Queue(arrival, [1] * n, output, token_ns=step, decode_ns=step)
    shared = queue.serve(make(name, quantum))
    rate = n / (arrival[-1] / SECOND)
    size = float(np.mean(output)) / 20
    theory = size + rate * (2 * size**2 - size / 20) / (2 * (1 - rate * size))
    assert mean_jct(shared) == pytest.approx(theory, rel=0.05)
    assert shared["preemptions"].mean() > 0.5
