"""Our Scheduler inside a vLLM scheduler, for one Case: made on a virtual clock, and checked when the run is over."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from fastserve.flightlog.replay import replay_log
from fastserve.sched.job import Job
from fastserve.sched.prefix import PrefixScheduler
from fastserve.sched.scheduler import Scheduler
from tests.sched.audit import audit
from tests.vllm.cases import Case
from tests.vllm.runner import DECODE, SEQUENCE, TOKEN

PROFILE = {
    "kind": "linear", "decode_ms": DECODE / 1e6, "decode_ms_per_sequence": SEQUENCE / 1e6,
    "prefill_ms": DECODE / 1e6, "prefill_ms_per_token": TOKEN / 1e6, "prefill_ms_per_squared_token": 0.0,
    "decode_ms_per_context_token": 0.0,
}  # fmt: skip


class Run:
    """now: ns of the virtual clock."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.flight = folder / "flight.jsonl"
        self.records = folder / "records.jsonl"
        self.now = 1
        self.preempted = 0
        self.scheduler: Any = None


def begin(
    case: Case, folder: Path, make: Callable[[dict[str, Any], Any], Any], plain: Any, *, logs: bool = True
) -> Run:
    """make: settings of `--additional-config`, what makes the scheduler -> the scheduler. plain: vLLM's own class.
    logs: write the flight log and the records.
    """
    run = Run(case, folder)
    if not case.ours:
        run.scheduler = make({}, plain)
        return run
    import fastserve.vllm

    profile = folder / "profile.json"
    profile.write_text(json.dumps(PROFILE), encoding="utf-8")
    asked = settings(case, run, profile)
    if not logs:
        del asked["flight_log"], asked["records"]
    run.scheduler = make({"fastserve": asked}, fastserve.vllm.scheduler)
    run.scheduler.clock = lambda: run.now
    run.scheduler.arrival = lambda request, ns: request.sampling_params.extra_args["at"]
    return run


def settings(case: Case, run: Run, profile: Path) -> dict[str, Any]:
    return {
        "policy": case.policy, "knobs": case.knobs, "slots": case.slots, "leave": case.leave, "visit": case.visit,
        "cache": case.cache, "profile": str(profile), "flight_log": str(run.flight), "records": str(run.records),
    }  # fmt: skip


@contextmanager
def watched() -> Iterator[list[str]]:
    """Audits the Scheduler after each commit, and collects what our logger says at error level. Reports of /metrics are
    made at every step, as if somebody read them.
    """
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.exc_info or "refused" in record.msg, "an error is logged without its traceback"
            said.append(self.format(record))

    def audited(kind: type[Any]) -> Any:
        commit = kind.commit

        def with_audit(self: Any, *facts: Any) -> Any:
            finished = commit(self, *facts)
            if type(self) is kind:
                audit(self)
            return finished

        return mock.patch.object(kind, "commit", with_audit)

    from fastserve.vllm import metrics

    keep, logger = Keep(logging.ERROR), logging.getLogger("vllm.fastserve")
    logger.addHandler(keep)
    propagate, logger.propagate = logger.propagate, False
    try:
        with (
            audited(Scheduler), audited(PrefixScheduler), mock.patch.object(metrics, "received", return_value=True),
            mock.patch.object(metrics, "EVERY_S", 0.0),
        ):  # fmt: skip
            yield said
    finally:
        logger.removeHandler(keep)
        logger.propagate = propagate


def check_step(scheduler: Any, asked: Any) -> None:
    """Whoever got tokens holds a place by the plan. (Where vLLM is paused for new requests it goes on by itself.)"""
    driver = scheduler.driver
    if driver is None or driver.plan is None:
        return
    jobs = [driver.jobs[id] for id in asked.num_scheduled_tokens]
    members = set(driver.plan.members)
    strangers = [job for job in jobs if job not in members]
    assert not strangers, f"got tokens, and has no place by {driver.plan}: {strangers[:3]}"


def end(run: Run, counted: dict[str, int], said: list[str]) -> dict[str, Any]:
    """After the last request. counted: request -> the tokens that its client got, of those that ended by themselves."""
    case, scheduler = run.case, run.scheduler
    counts = scheduler.counts
    failed = counts["policy_failed"]
    assert failed <= case.breaks, f"the policy is not broken, and yet: {said}"
    assert len(said) == failed, f"{failed} failures, said: {said}"
    assert all(isinstance(count, int) and count >= 0 for name, count in counts.items() if name != "levels"), counts
    nothing_left(scheduler)
    audit(scheduler.driver.scheduler)
    scheduler.shutdown()
    lines = [json.loads(line) for line in run.records.read_text(encoding="utf-8").splitlines()]
    rows = {line["request"].partition("-")[0]: line for line in lines if line["request"] is not None}  # (vLLM's suffix)
    if not failed:
        assert len(lines) == scheduler.driver.reader.next_id, "not every request has a record"
    for id, tokens in counted.items():
        if id in rows:
            if not (failed and rows[id]["finish"] == "unfinished"):  # when the policy failed
                assert rows[id]["output_tokens"] == tokens, f"{id} got {tokens} tokens, its record: {rows[id]}"
                assert rows[id]["finish"] in ("stop", "length"), rows[id]
        else:
            assert failed, f"{id} has no record"
    if case.repeatable:
        report = replay_log(run.flight)
        assert report.difference is None or (failed and "PolicyError" not in report.difference), report
    return {"counts": {name: count for name, count in counts.items() if count and not name.endswith("_ns")}}


def nothing_left(scheduler: Any) -> None:
    """Of requests that are over, in any container of ours."""
    driver = scheduler.driver
    assert driver is not None, "vLLM is on its own"
    assert not driver.scheduler.live, f"live: {list(driver.scheduler.live)}"
    assert driver.plan is None or not (driver.plan.joined or driver.plan.prefill), driver.plan
    for owner in (scheduler, driver, driver.reader, scheduler.waiting, scheduler.kv_holding_waiting):
        for name, value in vars(owner).items():
            if isinstance(value, dict | list | set | tuple) or hasattr(value, "popleft"):
                left = [one for one in value if _is_request(one)]
                left += [one for one in (value.values() if isinstance(value, dict) else ()) if _is_request(one)]
                assert not left, f"left behind in {type(owner).__name__}.{name}: {left[:3]}"


def _is_request(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_is_request(one) for one in value)
    return isinstance(value, Job) or hasattr(value, "num_computed_tokens")
