"""The flight log: what is in it, and what is not."""

import io
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.flightlog.replay import replay_log
from fastserve.flightlog.write import FACTS, FlightLog

SECRET = "the launch code is 0000"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_holds_lengths_and_ids_and_never_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "flight.jsonl"
    with Engine.scripted(flight_log=path, max_batch=2, kv_tokens=256) as engine:
        handle = engine.submit(SECRET, SamplingParams(max_tokens=7, stop="launch"), client="ann", deadline_s=2.5)
        text = handle.result().text
    header, *events = lines(path)
    assert header["flight_log"] == 1
    assert header["policy"] == "sj-mlfq"
    assert header["settings"]["max_batch"] == 2
    assert header["settings"]["device_blocks"] == 16
    assert header["hardware"]["latency"]["kind"] == "linear"
    assert [event["event"] for event in events[:3]] == ["submit", "plan", "commit"]
    submit = events[0]
    assert set(submit) == {"event", "now", *FACTS} - {"tool", "final"}
    assert submit["prompt"] == len(SECRET)
    assert submit["client"] == "ann"
    assert submit["deadline"] - submit["arrival"] == 2_500_000_000
    assert events[1]["plan"]["prefill"] == [[0, len(SECRET)]]
    assert text is not None
    written = path.read_text(encoding="utf-8")
    assert "launch" not in written
    assert text not in written


def test_each_event_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "flight.jsonl"
    with Engine.scripted(flight_log=path) as engine:
        engine.generate("hello", SamplingParams(max_tokens=3))
        engine.snapshot()
        assert [event["event"] for event in lines(path)[1:]].count("commit") == 3


def test_a_path_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Engine.scripted(flight_log=tmp_path / "no" / "such" / "folder.jsonl")


def test_a_step_that_ran_out_of_memory_is_in_it(tmp_path: Path) -> None:
    """Everything is forgotten, the batch shrinks, and the log still leads to the same plans."""
    path = tmp_path / "flight.jsonl"
    left = [2]
    submitted = threading.Event()  # no token before every request is there: the failing steps have a full batch

    def fail(job: object, index: int) -> None:
        assert submitted.wait(30)
        if index == 3 and left[0]:
            left[0] -= 1
            raise MemoryError("as asked")

    with Engine.scripted(flight_log=path, policy="mlfq", max_batch=8, kv_tokens=800, visit=0, fail=fail) as engine:
        streams = [engine.submit("hello " * 20, SamplingParams(max_tokens=20)) for _ in range(12)]
        submitted.set()
        for stream in streams:
            assert len(list(stream)) > 0
        assert engine.counters["oom"] == 2
    kinds = [event["event"] for event in lines(path)[1:]]
    assert kinds.count("forget_all") == 2
    assert kinds.count("resize") == 2
    report = replay_log(path)
    assert report.difference is None
    assert report.jobs == 12


def test_a_policy_made_by_a_function_is_named_as_well_as_can_be() -> None:
    from fastserve.policies.fcfs import Fcfs

    assert EngineConfig.of({"policy": Fcfs}).name == "fastserve.policies.fcfs:Fcfs"
    assert EngineConfig.of({"policy": lambda: Fcfs()}).name.endswith("<lambda>")


def test_a_full_disk_ends_the_log_and_not_the_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(io.StringIO):
        name = "flight.jsonl"

        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with Engine.scripted(flight_log=tmp_path / "flight.jsonl") as engine:
        (flight,) = engine.loop.observers.members
        assert isinstance(flight, FlightLog)
        assert flight._file is not None
        flight._file.close()
        flight._file = Full()
        with caplog.at_level(logging.ERROR, "fastserve"):
            assert len(engine.generate("hello", SamplingParams(max_tokens=3))[0].token_ids) == 3
        assert engine.alive
    assert [record.getMessage() for record in caplog.records] == [
        "the flight log flight.jsonl ends here, the engine goes on: [Errno 28] No space left on device"
    ]
