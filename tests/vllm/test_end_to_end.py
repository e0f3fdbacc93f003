"""`fastserve vllm` and the openai client: what users do, what they do wrong, and a policy that breaks."""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm import serving

pytestmark = pytest.mark.vllm
if not serving.runs():
    pytest.skip(serving.NO_ENGINE, allow_module_level=True)

from openai import AsyncOpenAI, BadRequestError  # noqa: E402

MINE = """
from fastserve import Policy


class Crashes(Policy):
    calls = 0

    def rank(self, job):
        self.calls += 1
        if self.calls > 100:
            raise RuntimeError("after 100 calls")
        return -job.arrival
"""
WORDS = ("sj-mlfq", "--slots", "4", "--rows", "16", "--flight-log", "flight.log", "--records", "records.jsonl")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    if serving.TRAINED:
        return serving.TRAINED
    folder = tmp_path_factory.mktemp("model")
    serving.tiny_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    made = serving.Server(model, ("--policy", *WORDS), tmp_path_factory.mktemp("server"))
    try:
        made.ready()
        yield made
    finally:
        made.stop()


def run(server: serving.Server, what: Callable[[AsyncOpenAI], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0, timeout=300) as client:
            return await what(client)

    return asyncio.run(inside())


def asked(number: int, tokens: int = 60, **more: Any) -> dict[str, Any]:
    """A request whose greedy answer is the same each time."""
    prompt = f"{number}. Once upon a time there was a {random.Random(number).choice(['cat', 'dog', 'king'])} who "
    extra = {"ignore_eos": True, **more.pop("extra_body", {})}
    return {
        "model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "extra_body": extra,
    } | more  # fmt: skip


async def text(client: AsyncOpenAI, **request: Any) -> str:
    return str((await client.completions.create(**request)).choices[0].text)


async def streamed(client: AsyncOpenAI, **request: Any) -> tuple[str, str | None]:
    """The text of a stream, and its finish reason."""
    pieces, reason = [], None
    async for chunk in await client.completions.create(stream=True, **request):
        pieces.append(chunk.choices[0].text)
        reason = chunk.choices[0].finish_reason or reason
    return "".join(pieces), reason


def records(server: serving.Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (server.folder / "records.jsonl").read_text().splitlines()]


def test_streams_and_answers_are_alike_though_requests_are_preempted(server: serving.Server) -> None:
    async def both(client: AsyncOpenAI) -> tuple[list[str], list[tuple[str, str | None]], list[str]]:
        alone = [await text(client, **asked(number)) for number in range(3)]
        whole = asyncio.gather(*[text(client, **asked(number)) for number in range(10)])
        parts = asyncio.gather(*[streamed(client, **asked(number)) for number in range(10)])
        return await whole, await parts, alone

    before = server.idle()
    whole, parts, alone = run(server, both)
    assert [made for made, _ in parts] == whole and {reason for _, reason in parts} == {"length"}
    assert whole[:3] == alone, "as if nobody else had been there"
    after = server.idle()
    name = 'num_preemptions_total policy="sj-mlfq"'
    assert after[name] > before[name], "twenty requests in four slots"
    assert after["parks_total"] - before["parks_total"] > 0


def test_aborts_in_mid_stream(server: serving.Server) -> None:
    async def aborting(client: AsyncOpenAI, number: int, chunks: int) -> None:
        extra = {"vllm_xargs": {"client": "leaving"}}
        stream = await client.completions.create(stream=True, **asked(number, 900, extra_body=extra))
        async for _ in stream:
            chunks -= 1
            if chunks <= 0:
                break
        await stream.close()

    async def mixed(client: AsyncOpenAI) -> Any:
        leaving = asyncio.gather(*[aborting(client, number, 1 + number % 4) for number in range(10)])
        staying = await asyncio.gather(*[streamed(client, **asked(number)) for number in range(100, 106)])
        await leaving
        return staying

    before = len(records(server))
    assert {reason for _, reason in run(server, mixed)} == {"length"}
    server.idle()
    told = records(server)[before:]
    assert [row["finish"] for row in told if row["client"] != "leaving"] == ["length"] * 6
    left = [row["finish"] for row in told if row["client"] == "leaving"]
    assert len(left) == 10 and set(left) <= {"cancelled", "length"}, "a busy machine may notice late"
    assert "cancelled" in left


def test_stop_strings_several_answers_and_logprobs(server: serving.Server) -> None:
    async def several(client: AsyncOpenAI) -> None:
        whole = await text(client, **asked(7))
        stop = whole[20:24]
        made = (await client.completions.create(**asked(7, stop=[stop]))).choices[0]
        assert (made.text, made.finish_reason) == (whole[: whole.index(stop)], "stop")
        answers = await client.completions.create(**asked(8, n=2, temperature=1.0, seed=5))
        assert [choice.finish_reason for choice in answers.choices] == ["length"] * 2
        assert len({choice.text for choice in answers.choices}) == 2 and answers.usage.completion_tokens == 120
        found = (await client.completions.create(**asked(7, logprobs=3))).choices[0]
        assert found.text == whole and len(found.logprobs.tokens) == 60
        assert all(math.isfinite(each) and each <= 0 for each in found.logprobs.token_logprobs)
        assert all(len(row) >= 3 for row in found.logprobs.top_logprobs)

    run(server, several)


def test_chat(server: serving.Server) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        messages: Any = [{"role": "user", "content": "Say something."}]
        made = await client.chat.completions.create(model="m", messages=messages, max_tokens=8, temperature=0)
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(
                model="m", messages=messages, max_tokens=8, temperature=0, stream=True
            )
        ]
        assert made.choices[0].message.content == "".join(pieces)

    run(server, chat)


def test_what_clients_tell_of_their_requests_and_what_is_none_of_it(server: serving.Server) -> None:
    told = [
        {"guess": 5, "client": "ada", "program": "p1", "slo": 2.5, "priority": 1},
        {"guess": "many", "client": 5}, {"guess": -1}, {"guess": 1e308, "slo": 1e308}, {"guess": [1, 2]},
        {"guess": 0.4, "slo": "soon"}, {"slo": -1, "priority": "high"}, {"client": "", "program": "x" * 5000},
        {"nobody": "knows this"},
    ]  # fmt: skip

    async def tell(client: AsyncOpenAI) -> list[tuple[str, str | None]]:
        return await asyncio.gather(*[
            streamed(client, **asked(number, 20, extra_body={"vllm_xargs": each})) for number, each in enumerate(told)
        ])  # fmt: skip

    before = len(records(server))
    answers = run(server, tell)
    assert {reason for _, reason in answers} == {"length"}
    server.idle()
    (ada,) = [row for row in records(server)[before:] if row["client"] == "ada"]
    assert (ada["program"], ada["output_tokens"]) == ("p1", 20)
    assert "Traceback" not in server.log


def test_what_vllm_refuses_it_refuses_as_ever(server: serving.Server) -> None:
    async def wrong(client: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError):
            await client.completions.create(**asked(1, 5000))
        with pytest.raises(BadRequestError):
            await client.completions.create(**asked(1, extra_body={"vllm_xargs": "guess"}))
        assert await text(client, **asked(1))

    run(server, wrong)
    server.idle()


def test_our_names_in_its_metrics(server: serving.Server) -> None:
    found = server.idle()
    assert found["iterations_total"] > 0 and found["joins_total"] > 0 and found["adapter_seconds_total"] > 0
    assert found["policy_failed_total"] == 0
    levels = [name for name in found if name.startswith("queue_level_requests")]
    assert 'queue_level_requests level="Q1"' in levels and not any(found[name] for name in levels)


def test_killed_in_mid_stream(server: serving.Server) -> None:
    """The last one on this server: all processes go, and the flight log replays.

    vLLM kills its engine process, and does not always tell the clients whose streams are open: then these leave.
    """

    async def killed(client: AsyncOpenAI) -> list[Any]:
        started = asyncio.Event()

        async def one(number: int) -> Any:
            reason = None
            async for chunk in await client.completions.create(stream=True, **asked(number, 900)):
                started.set()
                reason = chunk.choices[0].finish_reason or reason
            return reason

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await started.wait()
        server.process.send_signal(signal.SIGTERM)
        _, waiting = await asyncio.wait(tasks, timeout=20)
        for task in waiting:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    ends = run(server, killed)
    assert all(isinstance(end, BaseException) or end != "length" for end in ends), "a cut stream is no whole answer"
    server.process.wait(100)
    told = subprocess.run(
        [sys.executable, "-m", "fastserve.flightlog.replay", "flight.log"],
        cwd=server.folder, env={"PYTHONPATH": str(serving.ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert told.returncode == 0 and "reproduced" in told.stdout, told.stdout + told.stderr


@pytest.mark.parametrize("leave", ["park", "recompute"])
def test_a_policy_of_the_user_s_own_that_breaks(leave: str, model: str, tmp_path: Path) -> None:
    """Every request ends, with the tokens that it would have had, and one message says what happened."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    server = serving.Server(
        model, ("--policy", "mine:Crashes", "--slots", "4", "--rows", "16", "--leave", leave), tmp_path
    )
    try:
        server.ready()

        async def all_of(client: AsyncOpenAI) -> list[Any]:
            return await asyncio.gather(*[streamed(client, **asked(number, 100)) for number in range(16)])

        made = run(server, all_of)
        assert {reason for _, reason in made} == {"length"}
        found = server.idle()
        assert found["policy_failed_total"] == 1 and 'num_preemptions_total policy="fcfs"' in found
        assert server.log.count("requests are served as fcfs") == 1
        assert "RuntimeError: after 100 calls" in server.log and "mine.py" in server.log
        assert run(server, all_of) == made, "by fcfs, and the same tokens"
    finally:
        server.stop()
