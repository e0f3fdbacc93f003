"""Measures the dispatch lag of the bench client at a fixed rate against a stub server in another process.

    python scripts/bench_client.py [--rate 200] [--requests 2000] [--tokens 16] [--runs 3]

The requirement is a p99 dispatch lag below 10 ms at 200 requests/s on two cores. A timer alone, under the same load of
the machine, is measured before and after: no client can be better than that. Exits 1 if the median run misses it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import subprocess
import sys
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from fastserve.bench import Completions, HttpApi, IdPrompts, RequestOptions, Result, calls_of, run
from fastserve.bench.result import LATE_NS
from fastserve.workload import synthesise


async def timer(rate: float, seconds: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How late (ms) asyncio wakes for Poisson times, with nothing else to do."""
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    start, late = perf_counter_ns() + 10_000_000, []
    for due in (start + np.cumsum(gaps) * 1e9).astype(int).tolist():
        while (left := due - perf_counter_ns()) > 0:
            await asyncio.sleep(left / 1e9)
        late.append((perf_counter_ns() - due) / 1e6)
    return np.array(late)


async def send(url: str, args: argparse.Namespace, seed: int) -> Result:
    lengths = f"fixed:{args.tokens}"
    trace = synthesise(
        args.requests, rate=args.rate, lengths=lengths, prompt="lognormal:6,1,8,4000", output=lengths, seed=seed
    )
    api = HttpApi(url, Completions(RequestOptions(model="stub", ignore_eos=True)))
    calls = calls_of(trace, IdPrompts(100, 1000, seed))
    gc.collect()
    gc.freeze()
    try:
        return await run(calls, api)
    finally:
        api.close()


def on_loop(kind: str, work: Any) -> Any:
    if kind == "asyncio":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s, Poisson")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=16, help="output tokens, one event each")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    args = parser.parse_args()
    command = [sys.executable, "-m", "fastserve.bench.stub", "--ttft-ms", "20", "--tpot-ms", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        try:
            assert stub.stdout is not None
            url = stub.stdout.readline().strip()
            print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {args.loop}; {args.tokens} tokens")
            show("timer alone", on_loop(args.loop, timer(args.rate, 3.0)))
            p99 = []
            for seed in range(args.runs):
                before, began = cpu(), perf_counter()
                result = on_loop(args.loop, send(url, args, seed))
                share = (cpu() - before) / (perf_counter() - began)
                lags = result.lags_ms()
                p99.append(float(np.percentile(lags, 99)))
                events = sum([len(sample.reply.stamps) for sample in result.samples])
                failed = len(result.samples) - len(result.completed)
                show(
                    f"run {seed}",
                    lags,
                    f"  {failed} failed, {events / result.duration_s:,.0f} events/s, {share:.0%} of a core",
                )
            show("timer alone", on_loop(args.loop, timer(args.rate, 3.0)))
        finally:
            stub.terminate()
    middle = float(np.median(p99))
    print(f"median of {args.runs} runs: p99 lag {middle:.2f} ms")
    return int(middle >= LATE_NS / 1e6)


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def show(what: str, ms: np.ndarray[Any, np.dtype[np.float64]], more: str = "") -> None:
    p50, p99 = np.percentile(ms, (50, 99))
    print(f"{what:12} lag p50 {p50:6.2f}  p99 {p99:6.2f}  max {ms.max():6.2f} ms{more}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
