"""Our counts on their way from vLLM's engine process to the /metrics of its API process.

vLLM sends a SchedulerStats with each step. Its fields are fixed, but `waiting_lora_adapters` is an open dict of whole
numbers: attach() puts ours there, under names that begin with CARRIED, and detach() takes them out again before any
other stat logger of vLLM looks. Counters travel as what was added since the last time (several API processes each get
some of the steps, and vLLM adds up what they tell), gauges as they are.

The receiver is a stat logger, a plug-in of vLLM: `fastserve vllm` puts PLUGIN on the Python path, so that a vLLM that
is started otherwise is left as it is. Where vLLM would not find the plug-in, nothing is attached.
"""

from __future__ import annotations

import os
import time
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from fastserve.sched.observer import level, said

GROUP, NAME = "vllm.stat_logger_plugins", "fastserve"
PLUGIN = Path(__file__).resolve().parent / "plugin"
"""A folder with the entry point alone."""

CARRIED = "fastserve:"
LEVEL = "level:"

EVERY_S = 0.25
"""Seconds between two reports while there is work."""


class Told(NamedTuple):
    """name: without the prefix fastserve_, and without the _total of counters. scale: of the count."""

    name: str
    about: str
    scale: float = 1.0


COUNTERS: dict[str, Told] = {
    "steps": Told("iterations", "Iterations of the engine"),
    "joined": Told("joins", "Times that a request was given a place"),
    "left": Told("num_preemptions", "Times that a request gave up its place"),
    "parked": Told("parks", "Times that a preempted request's KV stayed in its row"),
    "unparked": Told("unparked", "Times that a request came back to the KV that had stayed in its row"),
    "recomputed": Told("recomputed", "Times that a preempted request's KV was given up, to be computed again"),
    "dropped": Told("dropped", "Parked requests whose KV was given up for want of rows or memory"),
    "by_vllm": Told("preempted_by_vllm", "Requests that vLLM itself preempted, for memory"),
    "amended": Told("plans_amended", "Plans that vLLM carried out in another way"),
    "corrected": Told("corrections", "Times that a request's tokens were counted again"),
    "unguessed": Told("unguessed", "Requests without a usable guess of their output; max_tokens stood for it"),
    "stuck": Told("stuck", "Times that nobody could go on and a parked request's KV was given up"),
    "policy_failed": Told("policy_failed", "Failures of the policy; after the first, requests are served as fcfs"),
    "ours_ns": Told("adapter_seconds", "Time that our Scheduler and what ties it to vLLM took", 1e-9),
    "vllm_ns": Told("vllm_scheduler_seconds", "Time that vLLM's own scheduler took inside ours", 1e-9),
}
"""Key of the adapter's counts -> what is told of it."""

BY_POLICY = "left"
"""The counter that has the policy as a label."""

GAUGES: dict[str, Told] = {
    "running": Told("num_requests_running", "Requests that hold a slot"),
    "waiting": Told("num_requests_waiting", "Requests that wait, the preempted ones too"),
    "parked_now": Told("num_requests_parked", "Preempted requests whose KV is kept"),
}
LEVELS = Told("queue_level_requests", "Live requests by queue level")


class _Carrier:
    """What has been sent of these counts."""

    def __init__(self, counts: dict[str, Any]) -> None:
        self.counts = counts
        self.sent: dict[str, int] = {}
        self.next = 0.0  # monotonic seconds

    def load(self) -> dict[str, int]:
        counts, sent = self.counts, self.sent
        self.next = time.monotonic() + EVERY_S
        found = {CARRIED + name: int(counts.get(name, 0)) for name in GAUGES}
        for name in COUNTERS:
            now = int(counts.get(name, 0))
            if now > sent.get(name, 0):
                found[CARRIED + name] = now - sent.get(name, 0)
                sent[name] = now
        for at, jobs in (counts.get("levels") or {}).items():
            found[f"{CARRIED}{LEVEL}{at}"] = int(jobs)
        return found


_carrier: _Carrier | None = None


@cache
def received() -> bool:
    """Whether vLLM's API processes, which have the same environment, find the plug-in that reads what is attached."""
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        return False  # it knows no plug-ins
    allowed = os.environ.get("VLLM_PLUGINS")
    return (allowed is None or NAME in allowed.split(",")) and any(
        point.name == NAME for point in entry_points(group=GROUP)
    )


def due(counts: dict[str, Any], idle: bool) -> bool:
    """Whether a report is due: every so often, and at once when nothing is left to do (idle), for no other step may
    follow. Only then need the gauges and levels in `counts` be right.
    """
    return received() and (idle or time.monotonic() >= _of(counts).next)


def attach(stats: Any, counts: dict[str, Any]) -> Any:
    """vLLM's SchedulerStats (or None, where it keeps none) with ours in it.

    counts: the scheduler's own dict, the same object each time: keys of COUNTERS and GAUGES, and "levels", a dict of
    level -> requests.
    """
    if stats is not None and received():
        stats.waiting_lora_adapters = {**stats.waiting_lora_adapters, **_of(counts).load()}
    return stats


def detach(stats: Any) -> dict[str, int]:
    """Takes out what attach() has put in, without CARRIED; empty where that was nothing."""
    carrier = stats.waiting_lora_adapters
    ours = [name for name in carrier if name.startswith(CARRIED)]
    return {name.removeprefix(CARRIED): carrier.pop(name) for name in ours}


def _of(counts: dict[str, Any]) -> _Carrier:
    global _carrier
    if _carrier is None or _carrier.counts is not counts:
        _carrier = _Carrier(counts)
    return _carrier


def look(adapter: Any) -> None:
    """Brings gauges and levels in the counts of vLLM's scheduler (adapter.py) up to date. Raises PolicyError."""
    counts = adapter.counts
    running, waiting = adapter.get_request_counts()
    parked = len(adapter.parked)
    levels: dict[int, int] = {}
    counts |= {"running": running - parked, "waiting": waiting + parked, "parked_now": parked, "levels": levels}
    driver = adapter.driver
    for job in driver.jobs.values() if driver is not None else ():
        at = level(said(driver.scheduler.policy, job)) if job in driver.scheduler.live else None
        if at is not None:
            levels[at] = levels.get(at, 0) + 1
