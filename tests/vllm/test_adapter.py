"""Our Scheduler inside vLLM's: what it refuses, what it leaves as it is, what clients tell, and its own failures."""

from __future__ import annotations

import json
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.vllm import ours
from tests.vllm.api import Api
from tests.vllm.cases import HERE, Arrival, Case
from tests.vllm.drive import Drive, serve
from tests.vllm.ours import Run

CASE = Case(policy="srpt", requests=30, gap=10)
REFUSED: list[tuple[str, str, Any, str]] = [
    ("parallel_config", "pipeline_parallel_size", 2, "--pipeline-parallel-size above 1"),
    ("scheduler_config", "policy", "priority", "leave --scheduling-policy at fcfs, not priority"),
    ("model_config", "runner_type", "pooling", "pooling models"),
]


def begun(api: Api, case: Case, folder: Path) -> Run:
    own = api.AsyncScheduler if case.ahead else api.Scheduler
    return ours.begin(case, folder, lambda *facts: api.make(case, *facts), own)


def served(api: Api, case: Case, folder: Path, prepare: Callable[[Any], None] | None = None) -> tuple[Drive, Any]:
    """The run, its tokens checked, and the scheduler. prepare: is given the scheduler before the first request."""
    run = begun(api, case, folder)
    if prepare is not None:
        prepare(run.scheduler)
    drive = Drive(api, case, run)
    drive.run()
    drive.check()
    run.scheduler.shutdown()
    return drive, run.scheduler


@pytest.fixture
def said() -> Iterator[list[logging.LogRecord]]:
    """What our logger says, whatever vLLM has made of logging."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    keep, logger = Keep(), logging.getLogger("vllm.fastserve")
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)
    logger.removeHandler(keep)


def events(folder: Path) -> Counter[str]:
    lines = (folder / "flight.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(str(json.loads(line).get("event")) for line in lines)


@pytest.mark.parametrize(("part", "name", "value", "why"), REFUSED)
def test_what_cannot_work_is_refused_at_the_start(
    api: Api, tmp_path: Path, part: str, name: str, value: Any, why: str
) -> None:
    config = api.config

    def changed(case: Case) -> Any:
        found = config(case)
        patches.append(mock.patch.object(getattr(found, part), name, value))
        patches[-1].start()
        return found

    patches: list[Any] = []
    try:
        with pytest.raises(ValueError, match=why):
            begun(api._replace(config=changed), CASE, tmp_path)
    finally:
        for patch in patches:
            patch.stop()


def test_diffusion_models_are_refused() -> None:
    from fastserve.vllm.refuse import refuse_configuration

    model = SimpleNamespace(runner_type="generate", is_diffusion=True)
    config = SimpleNamespace(
        model_config=model, parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        scheduler_config=SimpleNamespace(policy="fcfs"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="diffusion models"):
        refuse_configuration(config)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"policy": "srtp"}, "srpt"),
        ({"policy": "las", "knobs": {"quantm": 1}}, "quantum"),
        ({"polcy": "las"}, "policy"),
        ({"profile": "no-such-machine"}, "no-such-machine"),
    ],
)
def test_a_mistaken_setting_is_refused_at_the_start(
    api: Api, tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    import fastserve.vllm

    with pytest.raises((ValueError, FileNotFoundError), match=why):
        api.make(CASE, {"fastserve": settings}, fastserve.vllm.scheduler)


@pytest.mark.parametrize("ahead", [False, True])
def test_streaming_input_ends_that_request_with_an_error_and_nobody_else(api: Api, tmp_path: Path, ahead: bool) -> None:
    case = CASE.but(ahead=ahead)

    def prepare(scheduler: Any) -> None:
        request = api.request(Arrival(1, "stream", [70] * 20, 5, {"guess": 5}, ""), case)
        request.resumable = True
        scheduler.add_request(request)

    drive, scheduler = served(api, case, tmp_path, prepare)
    assert drive.reasons.pop("stream") == "error" and not drive.got.get("stream")
    assert len(drive.reasons) == case.requests and scheduler.counts["policy_failed"] == 0


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_where_vllm_has_nothing_to_decide_it_does_what_is_planned(
    api: Api, tmp_path: Path, ahead: bool, prefix: bool
) -> None:
    """Prompts that share nothing, and a pool large or small: no plan is amended, no token counted twice, no block
    reckoned with that is not there.
    """
    for blocks in (34, 400):
        _, scheduler = served(api, CASE.but(policy="sj-mlfq", ahead=ahead, prefix=prefix, blocks=blocks), tmp_path)
        told = events(tmp_path)
        assert scheduler.counts["left"] > 0 and told["commit"] > 100
        assert told["correct"] == 0 and scheduler.counts["by_vllm"] == 0
        if not prefix:  # (what somebody has computed before, he may find after a preemption)
            assert told["amend"] == 0 and told["resize_pool"] == 0


@pytest.mark.parametrize("ahead", [False, True])
def test_chunks_of_prefills_go_by_rank(api: Api, tmp_path: Path, ahead: bool) -> None:
    """vLLM serves a prefill that it has begun before any other; ours waits where a better one has come."""
    case = CASE.but(ahead=ahead, budget=20, policy="sj-mlfq", blocks=400)
    drive, scheduler = served(api, case, tmp_path)
    told = events(tmp_path)
    assert told["amend"] * 10 < told["plan"], told
    lengths = {told.id: len(told.prompt) for told in drive.told.values()}
    assert scheduler.counts["steps"] > 60 and len(lengths) == case.requests


def test_a_bad_guess_is_said_once_and_counted(api: Api, tmp_path: Path, said: list[logging.LogRecord]) -> None:
    case = CASE.but(guesses="bad")
    _, scheduler = served(api, case, tmp_path)
    assert 0 < scheduler.counts["unguessed"] <= case.requests and scheduler.counts["policy_failed"] == 0
    texts = [record.getMessage() for record in said if record.levelname == "WARNING"]
    texts = [text for text in texts if "guess" in text]
    assert len(texts) == 2 and any("max_tokens stands for it" in text for text in texts), texts


def test_what_clients_tell_becomes_the_job(api: Api, tmp_path: Path) -> None:
    run = begun(api, CASE, tmp_path)
    facts = {"guess": "7", "client": "ann", "program": "p", "slo": 2, "priority": -3, "tool": "shell", "final": True}
    for id, extra in (("a", facts), ("b", {"guess": 9, "client": 5, "slo": "soon"})):
        run.scheduler.add_request(api.request(Arrival(5, id, [70] * 40, 30, extra, ""), CASE))
    run.now = 10
    run.scheduler.schedule()
    jobs = run.scheduler.driver.jobs
    told = ("arrival", "prompt", "limit", "guess", "client", "program", "priority", "deadline", "tool", "final")
    a = [getattr(jobs["a"], name) for name in told]
    assert a == [5, 40, 30, 7, "ann", "p", -3, 2_000_000_005, "shell", True]
    assert (jobs["b"].guess, jobs["b"].client, jobs["b"].deadline) == (9, "5", 1 << 60)
    run.scheduler.shutdown()


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("it says nothing")


ENDLESS = 10**5000
"""With more digits than Python writes out."""


@pytest.mark.parametrize(
    "extra",
    [
        {"guess": ENDLESS, "slo": ENDLESS, "priority": -ENDLESS, "client": ENDLESS, "program": ENDLESS},
        {"guess": Mute(), "slo": Mute(), "client": Mute(), "program": [{"a": Mute()}], "tool": {}, "final": [1]},
        {"guess": "9" * 10_000, "slo": "-inf", "priority": b"7", "client": b"\xff", "program": "\ud800"},
        ["guess", 5],
    ],
)  # fmt: skip
def test_no_request_breaks_the_policy_for_others(api: Api, tmp_path: Path, extra: Any) -> None:
    def prepare(scheduler: Any) -> None:
        usual = scheduler.arrival
        scheduler.arrival = lambda request, ns: ns if request.request_id == "odd" else usual(request, ns)
        request = api.request(Arrival(1, "odd", [70] * 20, 5, {}, ""), CASE)
        request.sampling_params.extra_args = extra
        request.arrival_time, request.priority = float("nan"), 10**30
        scheduler.add_request(request)

    drive, scheduler = served(api, CASE, tmp_path, prepare)
    assert scheduler.counts["policy_failed"] == 0 and drive.reasons["odd"] == "length"
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == CASE.requests + 1


def test_more_of_a_refused_stream_is_no_request(api: Api, tmp_path: Path) -> None:
    """vLLM's front end may send the end of a stream before it hears that its beginning was refused."""

    def prepare(scheduler: Any) -> None:
        for resumable in (True, False):
            request = api.request(Arrival(1, "stream", [70] * 20, 5, {"guess": 5}, ""), CASE)
            request.resumable = resumable
            scheduler.add_request(request)

    drive, scheduler = served(api, CASE, tmp_path, prepare)
    assert drive.reasons.pop("stream") == "error" and len(drive.reasons) == CASE.requests
    assert scheduler.driver.reader.next_id == CASE.requests  # it never was a job


@pytest.mark.parametrize("hook", ["rank", "depart"])
def test_only_who_presses_ctrl_c_ends_vllm(api: Api, tmp_path: Path, hook: str) -> None:
    """vLLM's own processes have a handler of the signal: there it can only be the policy."""
    case = Case(policy=HERE + "Breaks", knobs={"hook": hook, "after": 5, "how": "interrupt"})
    made: list[Any] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            served(api, case, tmp_path, made.append)
        made[0].shutdown()  # (which closes files)
        signal.signal(signal.SIGINT, lambda *facts: None)
        _, scheduler = served(api, case, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert scheduler.counts["policy_failed"] == 1


@pytest.mark.parametrize("seed", [900691, 5, 6])
def test_a_prefill_that_vllm_preempts_in_a_pause_goes_on(api: Api, tmp_path: Path, seed: int) -> None:
    """Without a plan nobody is told; the first plan behind the pause calls it again, and it has its place."""
    case = Case(
        seed=seed, policy="srpt", blocks=26, budget=40, ahead=True, drafts=2, requests=12, gap=0, talks=True, pauses=0.1
    )
    assert serve(api, case, tmp_path).preempted


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("where", ["propose", "accept", "settle", "heard", "drain"])
def test_a_second_failure_leaves_vllm_on_its_own(
    api: Api, tmp_path: Path, said: list[logging.LogRecord], ahead: bool, where: str
) -> None:
    """The policy fails, then fcfs fails, which is a bug of ours: every request is served all the same."""
    from fastserve.vllm.driver import Driver

    inner = getattr(Driver, where)
    calls = 0

    def fails(self: Any, *facts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 40 and (calls > 60 or type(self.scheduler.policy).__name__ == "Srpt"):
            raise RuntimeError("a bug")
        return inner(self, *facts)

    with mock.patch.object(Driver, where, fails):
        case = CASE.but(ahead=ahead, prefix=True, rows=8, blocks=40)
        _, scheduler = served(api, case, tmp_path)
    assert scheduler.counts["policy_failed"] == 2 and scheduler.driver is None and not scheduler.parked
    texts = [record.getMessage() for record in said if record.levelname == "ERROR"]
    assert len(texts) == 2 and "served as fcfs" in texts[0] and "vLLM goes by its own order" in texts[1]


@pytest.mark.parametrize("ahead", [False, True])
def test_with_lora_whoever_leaves_is_recomputed(api: Api, tmp_path: Path, ahead: bool) -> None:
    """vLLM asserts that the adapters in use fit max_loras."""
    config = api.config
    patches: list[Any] = []

    def changed(case: Case) -> Any:
        found = config(case)
        patches.append(mock.patch.object(found, "lora_config", SimpleNamespace(max_loras=2)))
        patches[-1].start()
        return found

    class Adapted:
        """Requests of three adapters in turn."""

        def __getattr__(self, name: str) -> Any:
            return getattr(api._replace(config=changed), name)

        def request(self, told: Arrival, case: Case) -> Any:
            made = api.request(told, case)
            made.lora_request = SimpleNamespace(lora_int_id=int(told.id) % 3 + 1, lora_name=f"l{int(told.id) % 3}")
            return made

        def make(self, *facts: Any) -> Any:
            return api._replace(config=changed).make(*facts)

    adapted: Any = Adapted()
    try:
        _, scheduler = served(adapted, CASE.but(policy=HERE + "Rotate", ahead=ahead), tmp_path)
    finally:
        for patch in patches:
            patch.stop()
    assert scheduler.counts["left"] > 20 and scheduler.counts["parked"] == 0


def test_keep_is_said_to_bind_nobody(api: Api, tmp_path: Path, said: list[logging.LogRecord]) -> None:
    case = CASE.but(policy="continuum", prefix=True, talks=True)
    served(api, case, tmp_path)
    assert sum("keep()" in record.getMessage() for record in said) == 1


def test_a_program_ends_with_its_final_request(api: Api, tmp_path: Path) -> None:
    run = begun(api, CASE, tmp_path)
    for id, extra in (("a", {"final": 1}), ("b", {}), ("c", {})):
        told = {"guess": 5, "program": "other" if id == "c" else "p", **extra}
        run.scheduler.add_request(api.request(Arrival(1, id, [70] * 40, 5 + ord(id) - ord("a"), told, ""), CASE))
    case = CASE.but(requests=0)
    drive = Drive(api, case, run)
    drive.run()
    run.scheduler.shutdown()
    lines = (tmp_path / "flight.jsonl").read_text(encoding="utf-8").splitlines()
    over = [json.loads(line)["program"] for line in lines if '"end_program"' in line]
    assert over == ["p"] and len(drive.ended) == 3
