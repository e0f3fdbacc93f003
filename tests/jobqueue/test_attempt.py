"""What is sent again, and what is not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fastserve.jobqueue import attempt as attempts
from fastserve.jobqueue.attempt import ATTEMPTS, Attempt
from fastserve.jobqueue.messages import priority
from fastserve.jobqueue.record import answered, figures, packed, read
from fastserve.jobqueue.redis_url import checked, shown

pytestmark = pytest.mark.anyio
FINE = httpx.Response(200, json={"text": "fine"})


async def run(*answers: Any, patience_s: float = 60.0) -> tuple[Any, int, int]:
    """(how it ended, requests, failed attempts). answers: responses or exceptions, the last one for ever."""
    asked = failed = 0

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        answer = answers[min(asked, len(answers) - 1)]
        asked += 1
        assert request.url == "http://server/prefix/generate" and request.headers["x-request-id"] == "id"
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def fail() -> int:
        nonlocal failed
        failed += 1
        return failed

    one = Attempt("http://server/prefix/", pause_s=0.001, patience_s=patience_s)
    one.http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    found = await one.run("id", b"{}", fail)
    await one.close()
    return found, asked, failed


@pytest.mark.parametrize("status", [500, 501, 502, 504, 599])
async def test_5xx_is_tried_again_and_not_for_ever(status: int) -> None:
    ended, asked, failed = await run(httpx.Response(status), FINE)
    assert ended.state == "finished" and asked == 2 and failed == 1
    ended, asked, _ = await run(httpx.Response(status, json={"error": {"message": "out of memory"}}))
    assert ended.state == "failed" and asked == ATTEMPTS and "out of memory" in ended.error


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
async def test_4xx_is_not(status: int) -> None:
    ended, asked, failed = await run(httpx.Response(status, json={"detail": "wrong"}))
    assert ended == ("failed", None, f"HTTP {status}: wrong") and asked == 1 and failed == 0


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(429), httpx.ConnectError("refused")])
async def test_who_takes_nothing_now_is_waited_for(answer: Any) -> None:
    ended, asked, failed = await run(*[answer] * 6, FINE)
    assert ended.state == "finished" and asked == 7 and failed == 0
    ended, asked, _ = await run(answer, patience_s=0.02)
    assert ended.state == "failed" and asked > 1 and "0.02 s" in ended.error


async def test_a_connection_that_is_lost_counts() -> None:
    ended, asked, failed = await run(httpx.ReadError("reset"), httpx.RemoteProtocolError("gone"), FINE)
    assert ended.state == "finished" and asked == 3 and failed == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"text": 5}', b"[" * 100_000])
async def test_an_answer_of_something_else(content: bytes) -> None:
    ended, asked, _ = await run(httpx.Response(200, content=content))
    assert ended.state == "failed" and asked == 1 and "something else" in ended.error


async def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_BYTES", 1000)
    ended, asked, _ = await run(httpx.Response(200, json={"text": "x" * 2000}))
    assert ended.state == "failed" and asked == 1 and "1,000 bytes" in ended.error


async def test_retry_after_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    async def sleep(_: Attempt, seconds: float) -> bool:
        slept.append(seconds)
        return False

    monkeypatch.setattr(Attempt, "_stopped_within", sleep)
    busy = [httpx.Response(503, headers={"Retry-After": "7"}), httpx.Response(429, headers={"Retry-After": "9999"})]
    await run(*busy, FINE)
    assert slept == [7.0, 60.0]


def test_urls() -> None:
    assert checked("redis://user:secret@host:1/2") and checked("rediss://[::1]")
    assert shown("redis://user:secret@host:1/2") == "redis://host:1/2"
    assert shown("redis://[::1]") == "redis://[::1]:6379"
    for wrong in ("", "http://a", "redis://", "redis://a:b", "redis://a/x", "memory", "redis://a:0"):
        with pytest.raises(ValueError, match="redis://HOST:PORT") as error:
            checked(wrong)
        assert "secret" not in str(error.value)


def test_priorities() -> None:
    assert [priority(wanted) for wanted in (None, 0, -2, 3, -(1 << 31), 1 << 31, "x", 1.5)] == [5, 5, 3, 8, 0, 9, 5, 5]


def test_records_of_others_are_read_as_far_as_they_can_be() -> None:
    job = read("id", [b"me", b"m", b"finished", b"1.5", None, b"2", b"", b"[1]", b"{"], b"nonsense")
    assert job.view()["metadata"] == {} and job.ended == 2.0 and job.answer == {} and job.task()["result"] is None


def test_the_time_in_the_queue_is_told() -> None:
    found = answered(
        "id", {"execution_time": 2.0, "queue_time": 0.0, "tokens_generated": 10, "job_id": "x"}, 100.0, 110.0
    )
    assert found["queue_time"] == 8.0 and found["completion_time"] == 10.0 and found["tokens_per_second"] == 1.0
    assert found["job_id"] == "id"
    assert figures({})["tokens_generated"] == 0


def test_lone_surrogates_can_be_stored() -> None:
    assert packed({"a": "\ud800"}).encode() == b'{"a":"\\ud800"}' and packed({"a": "é"}) == '{"a":"é"}'
