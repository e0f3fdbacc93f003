"""Sessions: what follows is sent when what it waits for was answered. Nothing here depends on how long it takes."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from fastserve.__main__ import main
from fastserve.bench import Reply, Result
from fastserve.bench.api_formats import CALLS, PROGRAM_HEADER, Chat, Completions, RequestOptions
from fastserve.bench.result import Sample
from fastserve.bench.schedule import calls_of, requests_for
from fastserve.bench.session_calls import AlikePrompts, FixedCalls, SessionCalls, Words
from fastserve.bench.session_loop import run_sessions
from fastserve.bench.stub import Behaviour
from fastserve.workload import Trace, write_trace
from fastserve.workload.prompts import Dialogue, TracePrompts
from fastserve.workload.session import Sessions, SessionSettings
from tests.bench.conftest import Served

Serve = Callable[..., Served]
MS = 1_000_000


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def talks(programs: int = 3, turns: int = 3, think_ms: float = 5) -> Trace:
    """Conversations behind a common beginning, in blocks of 16: each turn repeats all that was said and adds 20."""
    rows = [(turn, talk) for turn in range(turns) for talk in range(programs)]
    prompt = [40 + 32 * turn for turn, _ in rows]
    return Trace(
        "talks", "made here", np.arange(len(rows), dtype=np.int64), np.array(prompt), np.full(len(rows), 12),
        program=[f"talk {talk}" for _, talk in rows], block_size=16,
        after=[() if turn == 0 else (row - programs,) for row, (turn, _) in enumerate(rows)],
        think=np.array([0 if turn == 0 else round(think_ms * MS) for turn, _ in rows]),
        tool=["bash" if turn < turns - 1 else "" for turn, _ in rows],
        hash_ids=[
            [i if i < 1 else 100 * (talk + 1) + i for i in range(n // 16)]
            for (_, talk), n in zip(rows, prompt, strict=True)
        ],
    )  # fmt: skip


class Answers:
    """An API that answers at once, but for what `how` says: (row, reply) -> what to await before."""

    def __init__(self, how: Callable[[int, Reply], Any] | None = None) -> None:
        self.how = how
        self.came: list[int] = []
        self.running = self.most = 0
        self.over: list[str] = []

    def encode(self, call: Any) -> bytes:
        return str(call.request.id).encode()

    async def send(self, message: bytes, reply: Reply) -> None:
        row = int(message)
        reply.sent = perf_counter_ns()
        self.came.append(row)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await (asyncio.sleep(0) if self.how is None else self.how(row, reply))
        finally:
            self.running -= 1
        if not reply.error:
            reply.stamps.append(perf_counter_ns())
            reply.finish = "length"

    async def end_program(self, name: str) -> None:
        self.over.append(name)


def go(trace: Trace, api: Answers, stop: asyncio.Event | None = None, **coming: Any) -> tuple[Result, Sessions]:
    sessions = Sessions(trace, SessionSettings(**coming))
    calls = FixedCalls(calls_of(trace, AlikePrompts(TracePrompts(trace, 0, 9))))

    async def bounded() -> Result:
        async with asyncio.timeout(30):
            return await run_sessions(calls, api, sessions, stop=stop)

    return asyncio.run(bounded()), sessions


def by_row(result: Result) -> dict[int, Sample]:
    return {sample.call.request.id: sample for sample in result.samples}


def test_what_follows_comes_when_it_was_answered_and_thought_over() -> None:
    trace = talks()
    api = Answers()
    result, sessions = go(trace, api)
    samples = by_row(result)
    assert sorted(api.came) == list(range(9))
    assert (result.loop, result.planned, result.interrupted, sessions.abandoned) == ("sessions", 9, False, [])
    assert trace.after is not None and trace.think is not None
    for row, before in enumerate(trace.after):
        if before:
            assert samples[row].arrival == samples[before[0]].reply.closed + trace.think[row]
        assert samples[row].reply.sent >= samples[row].arrival
    assert sorted(api.over) == ["talk 0", "talk 1", "talk 2"]


def test_a_closed_loop_has_so_many_programs_at_work_and_its_measures_are_the_simulators() -> None:
    api = Answers()
    result, _ = go(talks(programs=5, think_ms=0), api, sessions=2)
    assert api.most <= 2
    summary, table = result.measured()
    assert table["finish"].tolist() == ["completed"] * 5
    assert (summary["programs"], summary["programs_completed"]) == (5, 5)
    begin, end = table["first_arrival"].tolist(), table["end"].tolist()
    assert begin[:2] == [0.0, 0.0]
    assert sorted(begin[2:]) == pytest.approx(sorted(end)[:3], abs=0.05)  # an end is its last token, a little before
    columns = result.columns()
    assert columns["id"].tolist() == list(range(15))
    assert columns["turn"].tolist() == [1] * 5 + [2] * 5 + [3] * 5
    assert result.summary()["programs_per_hour"] == pytest.approx(summary["programs_per_hour"])


def test_who_fails_abandons_what_follows_and_the_next_begins() -> None:
    async def how(row: int, reply: Reply) -> None:
        if row == 0:
            reply.fail("HTTP 400: the prompt is too long", "rejected")

    result, sessions = go(talks(), Answers(how), sessions=1)
    assert sorted(by_row(result)) == [0, 1, 2, 4, 5, 7, 8]
    assert sorted(sessions.abandoned) == [3, 6]
    summary = result.summary()
    assert (summary["programs_abandoned"], summary["abandoned_requests"], summary["rejected"]) == (1, 2, 1)
    assert (summary["n"], summary["unfinished"]) == (7, 0)


def test_a_client_gives_up_without_a_first_token_and_not_with_one() -> None:
    async def how(row: int, reply: Reply) -> None:
        if row == 1:
            await asyncio.Event().wait()
        if row == 2:
            reply.stamps.append(perf_counter_ns())  # the first token, and then nothing for long
            await asyncio.sleep(0.4)

    result, sessions = go(talks(think_ms=0), Answers(how), client_timeout=0.2)
    samples = by_row(result)
    assert {row: sample.reply.finish for row, sample in samples.items()}[1] == "gave_up"
    assert samples[1].reply.closed - samples[1].arrival >= 200 * MS
    assert sorted(sessions.abandoned) == [4, 7]
    assert samples[2].reply.completed and samples[8].reply.completed
    summary = result.summary()
    assert (summary["gave_up"], summary["cancelled"], summary["programs_completed"]) == (1, 1, 2)


def test_stop_keeps_what_there_is() -> None:
    async def work() -> None:
        stop = asyncio.Event()

        async def how(row: int, reply: Reply) -> None:
            if row == 4:
                stop.set()
                await asyncio.Event().wait()

        sessions = Sessions(talks(), SessionSettings(sessions=2))
        calls = FixedCalls(calls_of(talks(), AlikePrompts(TracePrompts(talks(), 0, 9))))
        result = await run_sessions(calls, Answers(how), sessions, stop=stop)
        assert result.interrupted
        assert [sample.reply.finish for sample in result.samples if not sample.reply.completed][:1] == ["unfinished"]
        summary, table = result.measured()
        assert summary["not_arrived"] == 9 - len(result.samples) - len(sessions.abandoned)
        assert "unfinished" in table["finish"].tolist()

    asyncio.run(work())


# -- prompts -----------------------------------------------------------------------------------------------------------


def session_calls(recorded: bool, words: Words | None = None, messages: bool = False) -> SessionCalls:
    trace = talks(1)
    prompts = TracePrompts(trace, 0, 9 if words is None else words.size)
    return SessionCalls(trace, requests_for(trace, None, None), Dialogue(trace, prompts, recorded), words, messages)


def told(text: str, *ids: int) -> Reply:
    return Reply(finish="length", text=[text], token_ids=list(ids))


def test_token_ids_of_answers_go_into_what_follows() -> None:
    calls = session_calls(False)
    first = np.asarray(calls.make(0, 0).prompt).tolist()
    calls.answered(0, told("", *[77] * 12))
    call = calls.make(1, 5)
    assert np.asarray(call.prompt).tolist()[:52] == [*first, *[77] * 12]
    assert (len(call.prompt), call.due, call.tool, call.calls) == (72, 5, "bash", "bash")
    assert Completions(RequestOptions(own=True)).body(call) | {"tool": "bash", CALLS: "bash"} == Completions(
        RequestOptions(own=True)
    ).body(call)
    assert {"tool", CALLS} & {*Completions(RequestOptions()).body(call)} == set()


def test_a_chat_is_sent_as_turns() -> None:
    words = Words(lambda text: len(text.split()))
    calls = session_calls(False, words, messages=True)
    first = calls.make(0, 0).prompt
    assert isinstance(first, list) and [message["role"] for message in first] == ["user"]
    assert len(first[0]["content"].split()) == 40
    calls.answered(0, told("so it is"))
    second = Chat(RequestOptions()).body(calls.make(1, 0))["messages"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert (second[0], second[1]["content"]) == (first[0], "so it is")
    assert len(second[2]["content"].split()) == 20


def test_a_tokenizer_of_bytes_gets_letters() -> None:
    words = Words(len)
    assert len(words.text(np.arange(words.size))) == words.size


def test_recorded_text_has_nothing_of_the_server_s() -> None:
    calls = session_calls(True)
    plain = TracePrompts(talks(1), 0, 9)
    for row in range(3):
        assert np.asarray(calls.make(row, 0).prompt).tolist() == plain.of(row).tolist()
        calls.answered(row, told("", *[77] * 12))


# -- the command, against a stub ---------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    write_trace(talks(), path)
    return path


def bench(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    """The document of a run; what was told beside it under `err`."""
    assert main(["bench", "--json", *map(str, words)]) == status
    said = capsys.readouterr()
    return json.loads(said.out) | {"err": " ".join(said.err.split())}


def test_a_foreign_server(serve: Serve, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve(lambda number, body: Behaviour(cached=len(body["prompt"]) // 2))
    found = bench(capsys, "--url", served.url, "--trace", trace, "--sessions", 2, "--programs-csv", tmp_path / "p.csv")
    assert (found["loop"], found["completed"], found["failed"], found["not_sent"]) == ("sessions", 9, 0, 0)
    ours = found["from_arrival"]
    assert (ours["programs_completed"], ours["hit_rate"], ours["held_mean_s"]) == (3, 0.5, None)
    settings = found["settings"]
    assert (settings["own_answers"], settings["prompts_with_answers"], settings["prompts_without_answers"]) == (
        False, 6, 0,
    )  # fmt: skip
    assert settings["sessions"]["sessions"] == 2
    assert "closed loop: 2 at once of 3 programs of 9 requests" in found["err"]
    seen = [one for one in served.stub.seen if len(one.body["prompt"]) == 104]
    assert all(one.body["prompt"][72:84] == [120] * 12 == one.body["prompt"][40:52] for one in seen)
    assert {one.headers[PROGRAM_HEADER.lower()] for one in seen} == {"talk 0", "talk 1", "talk 2"}
    assert not {"program", "tool", CALLS} & {*seen[0].body}
    assert served.stub.over == []
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [(row["program"], row["finish"], row["turns"]) for row in rows] == [
        (f"talk {talk}", "completed", "3") for talk in range(3)
    ]


def test_our_own_server_is_told_programs_tools_and_ends(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(owned_by="fastserve")
    bench(capsys, "--url", served.url, "--api", "native", "--trace", trace, "--own-answers")
    bodies = [one.body for one in served.stub.seen]
    assert {body["program"] for body in bodies} == {"talk 0", "talk 1", "talk 2"}
    assert sorted([(len(body["prompt"]), body.get("tool"), body.get(CALLS)) for body in bodies])[::3] == [
        (40, None, "bash"), (72, "bash", "bash"), (104, "bash", None),
    ]  # fmt: skip
    assert not any("return_token_ids" in body for body in bodies)
    assert sorted(served.stub.over) == ["talk 0", "talk 1", "talk 2"]
    plain = TracePrompts(talks(), 257 // 8, 257 - 257 // 8)
    assert sorted(body["prompt"] for body in bodies) == sorted(plain.of(row).tolist() for row in range(9))


def test_a_server_that_tells_no_token_ids_gets_the_recorded_text_and_the_result_says_so(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    found = bench(capsys, "--url", served.url, "--trace", trace, "--extra-body", '{"return_token_ids": false}')
    assert found["settings"]["prompts_without_answers"] == 6
    assert "6 prompts have the recorded text where an answer of the server belongs" in found["err"]


def test_a_refused_request_abandons_its_program_and_this_is_told(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(lambda number, body: Behaviour(status=400 if len(body["prompt"]) == 72 and number == 1 else 200))
    found = bench(capsys, "--url", served.url, "--trace", trace, "--sessions", 1)
    assert (found["completed"], found["failed"], found["not_sent"]) == (7, 1, 0)
    assert "1 of 3 programs were abandoned, for a request of theirs was not completed: 1 requests" in found["err"]


def test_a_cache_that_was_warm_is_told(serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve(lambda number, body: Behaviour(cached=len(body["prompt"]) - 1))
    found = bench(capsys, "--url", served.url, "--trace", trace, "--sessions", 2)
    assert "it was warm, perhaps from a run before" in found["err"]


def test_ctrl_c_keeps_the_programs(serve: Serve, trace: Path, tmp_path: Path) -> None:
    served = serve(lambda number, body: Behaviour(hangs=number == 4))
    words = ["bench", "--url", served.url, "--trace", trace, "--sessions", 1, "--json", "--programs-csv",
             tmp_path / "p.csv"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", *map(str, words)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    until = time.monotonic() + 60
    while len(served.stub.seen) < 5 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out)
    assert (found["interrupted"], found["completed"], found["not_sent"]) == (True, 4, 4)
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [(row["program"], row["finish"]) for row in rows] == [("talk 0", "completed"), ("talk 1", "unfinished")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--sessions", "0"], "sessions=0"),
        (["--sessions", "2", "--program-rate", "1"], "not both"),
        (["--sessions", "2", "--request-rate", "3"], "request_rate stretches recorded arrivals"),
        (["--sessions", "2", "--max-concurrency", "3"], "--max-concurrency caps requests"),
    ],
)
def test_flags_that_do_not_go_together(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert main(["bench", "--url", serve().url, "--trace", str(trace), *words]) == 2
    assert why in capsys.readouterr().err


def test_own_answers_needs_somebody_who_waits(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", serve().url, "--num-prompts", "3", "--own-answers"]) == 2
    assert "no request of this workload waits for an answer" in capsys.readouterr().err


def test_block_ids_make_prompts_alike_without_sessions_too(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "open.jsonl"
    write_trace(talks(), path)
    served = serve()
    found = bench(capsys, "--url", served.url, "--trace", path, "--open-loop")
    assert found["from_arrival"]["early_requests"] is not None
    assert len({tuple(one.body["prompt"][:16]) for one in served.stub.seen}) == 1


def test_our_server_reads_the_names_that_the_client_writes() -> None:
    pytest.importorskip("fastapi")
    from fastserve.server.api.program_names import BODY, HEADERS

    assert PROGRAM_HEADER in {row.program for row in HEADERS}
    assert CALLS in {row.calls for row in BODY}
    assert {("program", "tool")} <= {(row.program, row.tool) for row in BODY}
