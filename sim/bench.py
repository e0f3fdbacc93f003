"""python -m sim.bench: how fast the simulator is on this machine, as requests and scheduling events per second.

Every figure is the CPU time of one process for everything between reading the trace and the summary: stretching the
trace, the run inside SimPy with the link on, the records, the measures. The rate that stands for a load is measured
before and cached, so it is left out. Each case is the best of a few repetitions; quote ratios of one run. The first
lines are such ratios: to the project's first prototype, by a yardstick that takes as long (sim/yardstick.py).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time  # noqa: TID251  a benchmark reads a clock; nothing that a replay computes does
from pathlib import Path

from fastserve.policies import POLICIES
from fastserve.policies.spec import PolicySpec
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.workload import Trace, read_trace
from sim import yardstick
from sim.prepared import Prepared
from sim.report.provenance import provenance
from sim.run import run_one
from sim.settings import Settings
from sim.sustained import sustained_rate

BUNDLED = Path(__file__).parent.parent / "traces" / "azure-conv-like.jsonl"
AZURE = Path("azure_2023") / "AzureLLMInferenceTrace_conv.csv"


class MyFcfs(Policy):
    """A user's own policy, as fast as a built-in: it keeps the promise of `settled`."""

    settled = True

    def rank(self, job: Job) -> int:
        return job.arrival


class Unsettled(MyFcfs):
    """The same, promising nothing: every rank is read again after every iteration."""

    settled = False


def trace(n: int = 10_000) -> Trace:
    """n requests of the public Azure trace if it is at hand, else of the bundled one, tiled."""
    folder = Path(os.environ.get("FASTSERVE_TRACES", Path("..") / "shared" / "traces"))
    if (folder / AZURE).exists():
        return read_trace(folder / AZURE).head(n)
    return read_trace(BUNDLED).tiled(n)


def timed(trace: Trace, contender: PolicySpec, settings: Settings, rate: float, repeat: int = 3) -> dict[str, float]:
    """Best of `repeat`: requests/s, events/s and what the run was like."""
    best = float("inf")
    for _ in range(repeat):
        begin = time.process_time()
        run = run_one(trace.with_rate(rate), contender, settings, seed=0)
        best = min(best, time.process_time() - begin)
    summary = {key: float(value or 0) for key, value in run.summary.items()}
    n = len(trace)
    return {
        "requests_per_s": n / best,
        "events_per_s": summary["scheduling_events"] / best,
        "plans_per_request": summary["plans"] / n,
        "iterations_per_request": summary["iterations"] / n,
        "preemptions_per_job": summary["preemptions_per_job"],
        "seconds": best,
    }


def ratios(repeat: int = 5) -> None:
    """The two figures that mean the same on every machine: runs and yardstick by turns, the second best of each."""
    requests = trace(19_000)
    for policy, settings in (("fcfs", Settings()), ("sj-mlfq", Settings(kv_tokens="unlimited"))):
        runs, sticks = [], []
        for _ in range(repeat):
            runs.append(timed(requests, PolicySpec(policy), settings, 1.86, repeat=1)["seconds"])
            sticks.append(yardstick.measure(yardstick.TURNS[policy]))
        ratio = sorted(sticks)[1] / sorted(runs)[1]
        print(f"{policy:8s} {len(requests):,} requests at 1.86 req/s: {ratio:.2f} times the prototype", flush=True)


def sessions(repeat: int = 5) -> None:
    """Agents in closed loop, where a hit saves iterations and the cache costs something a plan. Runs with and without
    it by turns, the best of each; what prompts share is made once for all.
    """
    agents = read_trace(BUNDLED.with_name("agents-like.jsonl"))
    for at_once in (4, 24):
        best: dict[str, float] = {}
        prepared = {cache: Prepared() for cache in ("off", "on")}
        for _ in range(repeat):
            for cache, kept in prepared.items():
                settings = Settings(sessions=at_once, prefix_cache=cache)
                begin = time.process_time()
                run = run_one(agents, PolicySpec("fcfs"), settings, seed=0, prepared=kept)
                best[cache] = min(best.get(cache, float("inf")), time.process_time() - begin)
        rate, ratio = len(agents) / best["on"], best["off"] / best["on"]
        title, hits = f"agents, {at_once} at once, prefix cache on", f"hit rate {run.summary['hit_rate'] or 0:.2f}"
        print(f"{title:52s} {rate:9,.0f} req/s {ratio:9.2f} of it off, {hits}", flush=True)


def replicas(requests: Trace, settings: Settings, rate: float, repeat: int = 5) -> None:
    """What a request costs in a cluster of eight, beside one replica behind the same router, and the machine without
    any, at the same load for each. Runs by turns, the best of each.
    """
    n = len(requests)
    for router in ("round-robin", "least-connections", "least-tokens"):
        best: dict[int, float] = {}
        for _ in range(repeat):
            for count in (0, 1, 8):
                how = settings.with_(replicas=count, router=router) if count else settings
                seconds = timed(requests, PolicySpec("fcfs"), how, rate * max(1, count), repeat=1)["seconds"]
                best[count] = min(best.get(count, float("inf")), seconds)
        ratios = f"{best[8] / best[1]:.2f} of one replica, {best[8] / best[0]:.2f} of a run without router"
        print(f"{f'8 replicas, {router}':52s} {n / best[8]:9,.0f} req/s, a request costs {ratios}", flush=True)


def show(name: str, figures: dict[str, float], note: str = "") -> None:
    print(
        f"{name:52s} {figures['requests_per_s']:9,.0f} req/s {figures['events_per_s']:9,.0f} events/s "
        f"{figures['plans_per_request']:6.2f} plans/req {figures['preemptions_per_job']:6.2f} preemptions/req {note}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.bench", description=__doc__)
    parser.add_argument("--million", action="store_true", help="also 1,000,000 requests, and the memory they take")
    parser.add_argument("--ratios", action="store_true", help="only the ratios to the prototype")
    parser.add_argument("--replicas", action="store_true", help="only what a cluster costs")
    parser.add_argument("--only-linear", type=int, metavar="N", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.only_linear:
        machine = provenance()
        print(f"{machine['machine']}, Python {machine['python']}, commit {machine['commit']}, brain {machine['brain']}")
        if not args.replicas:
            ratios()
        if args.ratios:
            return 0
    requests = trace()
    wide = Settings(max_batch=64)
    free = Settings(max_batch=64, kv_tokens="unlimited")
    narrow = Settings(max_batch=16)
    rate, free_rate, narrow_rate = (0.8 * sustained_rate(requests, settings) for settings in (wide, free, narrow))
    if args.only_linear:
        figures = timed(requests.tiled(args.only_linear), PolicySpec("fcfs"), wide, rate, repeat=1)
        show(f"fcfs, {args.only_linear:,} requests", figures, f"{peak_mib():.0f} MiB")
        return 0
    print(f"{requests.name}, {len(requests):,} requests, load 0.8: {rate:.3f} req/s at cap 64, {narrow_rate:.3f} at 16")
    if args.replicas:
        replicas(requests, wide, rate)
        return 0
    fcfs = timed(requests, PolicySpec("fcfs"), wide, rate)
    show("fcfs, the preset's pool, cap 64", fcfs)
    show("sj-mlfq, unlimited memory, cap 64", timed(requests, PolicySpec("sj-mlfq"), free, free_rate))
    head = requests.head(2000)
    bounded = 0.8 * sustained_rate(head, narrow)
    show("sj-mlfq, the preset's pool, cap 16, first 2,000", timed(head, PolicySpec("sj-mlfq"), narrow, bounded))
    mine = timed(requests, PolicySpec(MyFcfs), wide, rate)
    show("a user's settled policy", mine, f"{mine['requests_per_s'] / fcfs['requests_per_s']:.2f} of the built-in")
    show("a user's unsettled policy", timed(requests, PolicySpec(Unsettled), wide, rate, repeat=1))
    over = timed(requests, PolicySpec("fcfs"), wide, 2 * rate)
    show("fcfs in an overload (load 1.6)", over, f"{fcfs['requests_per_s'] / over['requests_per_s']:.2f} times slower")
    for name in POLICIES:
        if name not in ("fcfs", "sj-mlfq"):
            show(f"{name}, unlimited memory, cap 64", timed(requests, PolicySpec(name), free, free_rate, repeat=1))
    sessions()
    replicas(requests, wide, rate)
    sizes = [10_000, 100_000] + ([1_000_000] if args.million else [])
    for n in sizes:
        subprocess.run(
            [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "sim.bench", "--only-linear", str(n)],
            check=True,
        )
    return 0


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    sys.exit(main())
