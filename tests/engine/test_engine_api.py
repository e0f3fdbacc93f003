"""The facade: what scripts, the server and the benchmarks rely on. All on the scripted body."""

import math
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve import Job, Policy
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.engine import QueueFull
from fastserve.engine.request import Piece
from fastserve.metrics.records import COLUMNS
from fastserve.metrics.summary import summarise
from fastserve.sched.errors import RefusedError

ROOT = Path(__file__).resolve().parents[2]


def ten(**changes: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 10, **changes})


def test_no_torch_is_imported_on_this_path() -> None:
    code = (
        "import sys\n"
        "from fastserve.engine import Engine, SamplingParams\n"
        "with Engine.scripted() as engine:\n"
        "    print(len(engine.generate('hello', SamplingParams(max_tokens=5))[0].token_ids))\n"
        "    engine.snapshot(); engine.records()\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'simpy'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["5", "[]"]


def test_generate_takes_one_prompt_or_many() -> None:
    with Engine.scripted() as engine:
        (one,) = engine.generate("hello", ten())
        assert one.prompt_token_ids == list(b"hello")
        assert len(one.token_ids) == 10
        assert one.text == bytes(one.token_ids).decode()
        assert one.finish_reason == "length"
        assert one.error is None
        assert set(one.record) == set(COLUMNS)
        assert one.record["output_tokens"] == 10
        (same,) = engine.generate([104, 105], ten())
        assert same.prompt_token_ids == [104, 105]
        for array in (np.array([104, 105]), tuple(np.array([104, 105], np.int32))):
            (same,) = engine.generate(array, ten())
            assert same.prompt_token_ids == [104, 105]
            assert {type(token) for token in same.prompt_token_ids} == {int}
        several = engine.generate(["a", [98, 99], "c"], [ten(), ten(max_tokens=3), ten(max_tokens=1)])
        assert [len(output.token_ids) for output in several] == [10, 3, 1]
        assert engine.generate([]) == []
        with pytest.raises(ValueError, match="2 sampling parameters for 1 prompts"):
            engine.generate("a", [ten(), ten()])


def test_what_is_said_depends_on_the_seed_alone() -> None:
    with Engine.scripted(max_batch=2, policy="mlfq", kv_tokens=64, visit=0) as engine:
        alone = engine.generate("x", ten(seed=7))[0]
        crowd = engine.generate(["x"] * 8, [ten(seed=i) for i in range(8)])
    assert crowd[7].token_ids == alone.token_ids
    assert len({tuple(output.token_ids) for output in crowd}) == 8


def test_a_seed_is_drawn_at_acceptance_and_told() -> None:
    def seeds(seed: int) -> list[int]:
        with Engine.scripted(seed=seed) as engine:
            handles = [engine.submit("x", ten()) for _ in range(3)]
            assert [handle.seed for handle in handles] == [handle.result().seed for handle in handles]
            return [handle.seed for handle in handles]

    assert seeds(1) == seeds(1) != seeds(2)
    assert len(set(seeds(1))) == 3


def test_pieces_come_one_a_token_and_may_be_read_twice() -> None:
    with Engine.scripted() as engine:
        handle = engine.submit("hello", ten())
        pieces = list(handle)
        assert [piece.index for piece in pieces] == list(range(10))
        assert [piece.finish_reason for piece in pieces] == [""] * 9 + ["length"]
        assert "".join(piece.text for piece in pieces) == handle.result().text
        assert [piece.at_ns for piece in pieces] == sorted({piece.at_ns for piece in pieces})
        assert list(handle) == pieces
        assert handle.state == "finished"
        assert handle.done


def test_ends() -> None:
    with Engine.scripted() as engine:
        whole = engine.generate("x", ten(seed=3, max_tokens=40))[0]
        assert whole.text is not None
        stop = whole.text[11:14]
        cut = engine.generate("x", ten(seed=3, max_tokens=40, stop=stop))[0]
        assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
        kept = engine.generate("x", ten(seed=3, max_tokens=40, stop=stop, include_stop=True))[0]
        assert kept.text == whole.text[: whole.text.index(stop) + 3]
        token = whole.token_ids[5]
        first = whole.token_ids.index(token)
        ended = engine.generate("x", ten(seed=3, max_tokens=40, stop_token_ids=[token]))[0]
        assert (ended.token_ids, ended.finish_reason) == (whole.token_ids[: first + 1], "stop")
        assert ended.text == whole.text[:first]
        true = engine.generate("x", ten(seed=3, max_tokens=40, stop_after=6))[0]
        assert (true.token_ids, true.finish_reason) == (whole.token_ids[:6], "stop")
        late = engine.generate("x", ten(seed=3, max_tokens=40, stop=whole.text[2], min_tokens=8))[0]
        assert len(late.token_ids) >= 8
        assert engine.generate("x", ten(seed=3, max_tokens=None))[0].record["output_tokens"] == 2047


def test_the_true_length_is_hidden_from_the_policy() -> None:
    seen: list[Job] = []

    class Nosy(Policy):
        def rank(self, job: Job) -> int:
            seen.append(job)
            return job.arrival

    with Engine.scripted(policy=Nosy) as engine:
        engine.generate("x", ten(max_tokens=500, stop_after=3))
    assert {(job.limit, job.guess) for job in seen} == {(500, None)}


def test_logprobs() -> None:
    with Engine.scripted() as engine:
        pieces = list(engine.submit("x", ten(logprobs=3)))
        output = engine.generate("x", ten(logprobs=0))[0]
    assert all(piece.logprob is not None and len(piece.top_logprobs or {}) == 3 for piece in pieces)
    assert output.logprobs is not None
    assert [list(each) for each in output.logprobs] == [[token] for token in output.token_ids]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", {}, "empty"),
        ([], {}, "empty"),
        ([1, 999], {}, "999 is not a token"),
        ([True], {}, "True is not a token"),
        ([1.5], {}, r"1\.5 is not a token"),
        (["a"], {}, "'a' is not a token"),
        (None, {}, "None is not a prompt: give text, or a list of token ids"),
        (7, {}, "7 is not a prompt"),
        (b"x", {}, "b'x' is not a prompt"),
        ("x" * 2048, {"max_tokens": None}, "2048 tokens with 1 more to generate exceeds the context of 2048"),
        ("x" * 2000, {"max_tokens": 49}, "2000 tokens with 49 more to generate exceeds the context of 2048"),
        ("x" * 200, {}, "200 tokens needs 13 KV blocks of 16 tokens, the device has 8"),
    ],
)
def test_what_is_refused_at_once(prompt: Any, params: dict[str, Any], message: str) -> None:
    with Engine.scripted(kv_tokens=128) as engine:
        with pytest.raises(ValueError, match=message) as caught:
            engine.submit(prompt, ten(**params))
        assert isinstance(caught.value, RefusedError) == ("context" in message or "blocks" in message)
        assert engine.submit("fine", ten()).id == 0  # a refused request takes no id


def test_a_request_that_outgrows_the_pool_is_truncated_and_one_at_its_own_limit_is_not() -> None:
    with Engine.scripted(kv_tokens=64) as engine:
        output = engine.generate("x" * 40, ten(max_tokens=200))[0]
        whole = engine.generate("x" * 40, ten(max_tokens=25))[0]
        found = summarise(engine.records(), horizon_s=1e9)
        counters = engine.snapshot().counters
    assert output.finish_reason == "truncated"
    assert len(output.token_ids) == 25  # the 65th token has no place; it is told, but nothing can follow it
    assert output.record["finish"] == "truncated" and math.isnan(output.record["jct_from_arrival"])
    assert (whole.finish_reason, len(whole.token_ids)) == ("length", 25)  # the same tokens, and they were all it asked
    assert (found["completed"], found["truncated"], found["n"]) == (1, 1, 2)
    assert (counters["finished_length"], counters["finished_truncated"]) == (1, 1)


def test_times_that_are_none_are_refused() -> None:
    with Engine.scripted() as engine:
        for times in ({"deadline_s": math.nan}, {"timeout_s": -1.0}, {"timeout_s": math.inf}, {"arrival": math.nan}):
            with pytest.raises(ValueError, match=f"{next(iter(times))}="):
                engine.submit("x", ten(), **times)
        assert engine.submit("x", ten(), timeout_s=1e9, deadline_s=0.0).id == 0


def test_the_queue_is_bounded() -> None:
    gate = threading.Event()
    with Engine.scripted(max_batch=1, queue_capacity=2, fail=lambda job, index: gate.wait(10)) as engine:
        handles = [engine.submit("x", ten()) for _ in range(3)]
        with pytest.raises(QueueFull, match="3 requests are in the engine, and no more than 2 may wait"):
            engine.submit("x", ten())
        extra = engine.submit("x", ten(), beyond_capacity=True)
        gate.set()
        for handle in [*handles, extra]:
            handle.result(10)
        assert len(engine.submit("x", ten()).result(10).token_ids) == 10


def test_cancel_timeout_and_close() -> None:
    engine = Engine.scripted(policy="fcfs", max_batch=1, realtime=1.0)
    try:
        long = engine.submit("x", ten(max_tokens=2000))
        waiting = engine.submit("x", ten(max_tokens=2000))
        late = engine.submit("x", ten(), timeout_s=0.05)
        assert late.result(10).finish_reason == "timeout"
        next(iter(long))
        assert long.state == "running"
        assert waiting.state == "queued"
        long.cancel()
        output = long.result(10)
        assert output.finish_reason == "cancelled"
        assert output.record["finish"] == "cancelled"
        assert long.state == "cancelled"
        long.cancel()  # too late, and ignored
        with pytest.raises(TimeoutError, match=r"request 1 is (running|queued) after 0.01 s"):
            waiting.result(0.01)
    finally:
        engine.close()
    assert waiting.result(1).finish_reason == "cancelled"
    assert waiting.result().error == "the engine was closed"
    assert not engine.alive
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit("x")
    assert engine.snapshot().running == 0
    engine.close()


def test_arrivals_to_come_are_waited_for_and_past_ones_count_as_waiting() -> None:
    with Engine.scripted() as engine:
        now = engine.now()
        later = engine.submit("x", ten(), arrival=now + 100.0)
        past = engine.submit("x", ten(), arrival=now - 5.0)
        assert past.result().record["queued"] >= 5.0
        assert later.result().record["arrival"] == pytest.approx(now + 100)
        assert later.result().record["queued"] < 1.0
        gone = engine.submit("x", ten(), arrival=engine.now() + 1e6)
        gone.cancel()
        assert gone.result().finish_reason == "cancelled"
        assert gone.result().record == {}


def test_a_listener_that_raises_is_detached_and_the_rest_goes_on() -> None:
    heard: list[Piece] = []

    def deaf(piece: Piece) -> None:
        heard.append(piece)
        raise RuntimeError("enough")

    with Engine.scripted() as engine:
        handle = engine.submit("x", ten(), listener=deaf)
        other = engine.submit("x", ten(), listener=heard.append)
        assert len(handle.result().token_ids) == 10
        assert len(other.result().token_ids) == 10
    assert len(heard) == 11


def test_one_request_fails_alone() -> None:
    def fail(job: Job, index: int) -> None:
        if job.id == 1 and index == 4:
            raise ZeroDivisionError("as asked")

    with Engine.scripted(fail=fail) as engine:
        good, bad, other = engine.generate(["a", "b", "c"], ten())
        assert bad.finish_reason == "error"
        assert bad.error == "ZeroDivisionError: as asked"
        assert len(bad.token_ids) == 4
        assert bad.record["finish"] == "error"
        assert [len(good.token_ids), len(other.token_ids)] == [10, 10]
        assert engine.alive
        assert engine.counters["finished_error"] == 1


class Breaks(Policy):
    def rank(self, job: Job) -> int:
        if self.now and job.generated == 3:
            raise KeyError("lost")
        return job.arrival


def test_a_broken_policy_fails_every_request_and_the_engine_says_so() -> None:
    with Engine.scripted(policy=Breaks, max_batch=2) as engine:
        with engine.inbox.condition:  # nothing begins before all are there
            handles = [engine.submit("x", ten()) for _ in range(5)]
        outputs = [handle.result(10) for handle in handles]
        assert {output.finish_reason for output in outputs} == {"error"}
        assert all("policy Breaks, rank() of job" in str(output.error) for output in outputs)
        engine._lifecycle.thread.join(10)
        assert not engine.alive
        assert engine.error is not None
        assert "KeyError" in engine.error
        with pytest.raises(RuntimeError, match="policy Breaks"):
            engine.submit("x")
        assert engine.snapshot().error == engine.error


@pytest.mark.parametrize("method", ["rank", "arrive", "depart", "alarm"])
@pytest.mark.parametrize("turn", [1, 2, 5])
def test_wherever_a_policy_breaks_nobody_waits_for_ever(method: str, turn: int) -> None:
    """Also those who came in the same moment, and those whose last token was on its way."""
    left = [turn]

    def broken(self: Policy, job: Job, *why: str) -> int:
        if method == "rank" and not job.generated:
            return 0
        left[0] -= 1
        if left[0] == 0:
            raise OSError("no more")
        if method == "arrive":
            self.wake(job, served=1)
        return 0

    made = type(
        "Broken", (Policy,), {"rank": lambda self, job: 0, "arrive": lambda self, job: self.wake(job, served=1)}
    )
    setattr(made, method, broken)
    with Engine.scripted(policy=made, max_batch=3) as engine:
        at = engine.now() + 1.0
        handles: list[Any] = []
        with suppress(RuntimeError):  # it may have broken while they were still coming
            handles.extend(engine.submit("x", ten(max_tokens=i + 1), arrival=at) for i in range(7))
            handles[6].cancel()
        outputs = [handle.result(10) for handle in handles]
        assert any(f"policy Broken, {method}()" in str(output.error) for output in outputs)
        assert all(output.finish_reason in ("error", "length", "cancelled") for output in outputs)
        engine._lifecycle.thread.join(10)
        assert "no more" in str(engine.error)


def test_watchers_see_levels_change_and_nothing_is_told_without_them() -> None:
    events: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"policy": "mlfq", "max_batch": 2, "kv_tokens": 96, "visit": 0, "host_tokens": 400}
    with Engine.scripted(**settings) as engine:
        engine.add_watcher(events.append)
        with engine.inbox.condition:  # nothing begins before all are there
            handles = [engine.submit("hello there", ten(max_tokens=30)) for _ in range(6)]
        for handle in handles:
            handle.result(10)
        engine.snapshot()  # what comes with the last token has been told
        engine.remove_watcher(events.append)
        seen = len(events)
        engine.generate("x", ten())
        assert len(events) == seen
    kinds = [event["type"] for event in events]
    assert {"arrive", "join", "leave", "level", "copy", "end"} <= set(kinds)
    assert kinds.count("arrive") == kinds.count("end") == 6
    assert kinds.count("join") == kinds.count("leave") + 6
    assert [event["at"] for event in events if event["type"] != "join"] == sorted(
        event["at"] for event in events if event["type"] != "join"
    )
    demoted = [event for event in events if event["type"] == "level" and event["direction"] == "demoted"]
    assert {(event["was"], event["level"]) for event in demoted} >= {("Q1", "Q2"), ("Q2", "Q3")}
    assert {event["slot"] for event in events if event["type"] == "join"} == {0, 1}


def test_a_watcher_that_raises_is_removed() -> None:
    with Engine.scripted() as engine:
        engine.add_watcher(lambda event: 1 / 0)
        assert len(engine.generate("x", ten())[0].token_ids) == 10
        assert engine.feed.watchers == ()


def test_a_snapshot_in_the_middle() -> None:
    gate, reached = threading.Event(), threading.Event()

    def fail(job: Job, index: int) -> None:
        if job.id == 0 and index == 5:
            reached.set()
            gate.wait(10)

    with Engine.scripted(policy="fcfs", max_batch=2, fail=fail, kv_tokens=1600) as engine:
        handles = [engine.submit("hello", ten(), client="ann") for _ in range(5)]
        assert reached.wait(10)
        future = engine.inbox.ask(lambda: None)
        gate.set()
        snapshot = engine.snapshot()
        future.result(10)
        plain = snapshot.to_json()
        for handle in handles:
            handle.result(10)
        end = engine.snapshot()
    assert plain["slots"] == 2
    assert plain["device"]["total"] == 1600
    assert len(plain["jobs"]) == plain["running"] + plain["waiting"]
    for job in plain["jobs"]:
        assert job["client"] == "ann"
        assert (job["state"] == "running") == (job["slot"] is not None)
    assert (end.running, end.waiting, end.device.used, end.device.parked) == (0, 0, 0, 0)
    assert end.counters["requests"] == end.counters["finished_length"] == 5
    assert end.counters["output_tokens"] == 50
    assert end.scheduler_us > 0
    assert 0 < end.scheduler_share < end.host_share <= 1
    assert end.host_us > end.scheduler_us


def test_records_are_those_of_the_simulators_schema_and_bounded() -> None:
    with Engine.scripted(keep_records=20) as engine:
        engine.generate(["x"] * 100, ten(max_tokens=2))
        columns = engine.records()
        assert list(columns) == list(COLUMNS)
        assert 20 <= len(columns["id"]) <= 60
        assert columns["id"][-1] == 99
        handle = engine.submit("x", ten(), client="ann", program="p", priority=3, deadline_s=4.0)
        record = handle.result().record
    assert (record["client"], record["program"], record["priority"], record["e2e_slo"]) == ("ann", "p", 3, 4.0)
    assert math.isnan(record["ttft_slo"])
    assert record["slowdown"] == pytest.approx(1.0)


def test_settings_are_checked() -> None:
    with pytest.raises(
        ValueError,
        match=r"has no setting 'max_bath'; it has max_batch, .*, policy, .*, knobs; did you mean max_batch",
    ):
        Engine.scripted(max_bath=3)
    with pytest.raises(ValueError, match="policy srpt needs a guess"):
        Engine.scripted(policy="srpt")
    with pytest.raises(ValueError, match="a live engine knows no true lengths"):
        Engine.scripted(predictor="oracle")
    with pytest.raises(ValueError, match="kv_tokens=3 must hold one KV block of 16 tokens"):
        Engine.scripted(kv_tokens=3)
    with pytest.raises(ValueError, match="no policy 'nonsense'"):
        Engine.scripted(policy="nonsense")
    with pytest.raises(ValueError, match="has no setting 'quantum'"):
        Engine.scripted(policy="fcfs", knobs={"quantum": 1})
    with pytest.raises(FileNotFoundError, match="no latency preset"):
        Engine.scripted(latency="nonsense")


def test_guesses() -> None:
    with Engine.scripted(policy="srpt", predictor="client", max_batch=1) as engine:
        with pytest.raises(ValueError, match="has no guess"):
            engine.submit("x", ten())
        assert len(engine.submit("x", ten(guess=10)).result().token_ids) == 10
    with Engine.scripted(policy="srpt", predictor="constant:64") as engine:
        assert len(engine.generate("x", ten())[0].token_ids) == 10


def test_what_an_engine_says_of_itself() -> None:
    with Engine.scripted(policy="las", knobs={"quantum": 0.1}, max_batch=3) as engine:
        line = engine.start_line()
        assert "\n" not in line
        for part in ("scripted", "las", "batch cap 3", "66,144 tokens", "opt-13b-a100"):
            assert part in line
        assert engine.settings["knobs"] == {"quantum": 0.1}
        assert engine.settings["policy"] == "las"
        assert engine.settings["token_budget"] == 512
        assert engine.tokenizer.decode(engine.tokenizer.encode("héllo")) == "héllo"
        assert engine.eos_ids == {256}
        assert engine.vocab_size == 257
        assert engine.max_model_len == 2048
        assert engine.model_name == "scripted"


def test_real_time_may_be_sped_up() -> None:
    """No clock of ours is read here: modelled seconds pass that real time has not had."""
    with Engine.scripted(realtime=200.0) as engine:
        record = engine.generate("x", ten(max_tokens=20))[0].record
    assert record["jct_from_arrival"] >= 0.38  # 18.2 ms and nineteen times 20 ms


def test_no_knobs_are_no_knobs() -> None:
    with Engine.scripted(policy="fcfs", knobs=None) as engine:
        assert engine.settings["knobs"] == {}


def test_a_skipped_special_token_does_not_split_a_character() -> None:
    with Engine.scripted() as engine:
        assert engine.tokenizer.decode([194, 256, 128], skip_special_tokens=True) == "\x80"


@pytest.mark.parametrize("keep", [0, -1])
def test_to_keep_no_record_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=f"keep_records={keep} must be at least 1"):
        Engine.scripted(keep_records=keep)
