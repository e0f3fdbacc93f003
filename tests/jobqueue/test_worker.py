"""Real processes: workers and Redis are killed with kill -9, and no job is lost or answered twice."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis as redis_client
from pydantic import SecretStr

from fastserve.jobqueue import jobs
from fastserve.jobqueue.jobs import JobQueue, QueueDownError, QueueFullError
from fastserve.jobqueue.record import QueuedJob
from fastserve.jobqueue.settings import QueueSettings
from tests.jobqueue.processes import Redis, Server, until, worker

Result = TypeVar("Result")


def with_queue(url: str, what: Callable[[JobQueue], Coroutine[Any, Any, Result]]) -> Result:
    async def run() -> Result:
        queue = JobQueue(QueueSettings(queue=SecretStr(url)))
        try:
            return await what(queue)
        finally:
            await queue.close()

    return asyncio.run(run())


def submit(url: str, *prompts: str, **fields: Any) -> list[str]:
    async def all(queue: JobQueue) -> list[str]:
        jobs = [await queue.submit({"prompt": prompt, **fields}, client="me", model="m") for prompt in prompts]
        return [job.id for job in jobs]

    return with_queue(url, all)


def found(url: str, *ids: str) -> list[QueuedJob]:
    try:
        return with_queue(url, lambda queue: queue.jobs(ids, answers=True))
    except QueueDownError:
        return []


def ended(url: str, *ids: str) -> list[QueuedJob]:
    """Once all have."""

    def look() -> list[QueuedJob]:
        jobs = found(url, *ids)
        return jobs if len(jobs) == len(ids) and all(job.has_ended for job in jobs) else []

    return until(look)  # type: ignore[no-any-return]


def text(job: QueuedJob) -> str:
    assert job.state == "finished" and job.answer is not None, job
    return str(job.answer["text"])


def test_jobs_are_run(redis: Redis, target: Server, tmp_path: Path) -> None:
    ids = submit(redis.url, "a", "b", seed=7, metadata={"mine": 1})
    assert [job.state for job in found(redis.url, *ids)] == ["queued", "queued"]
    assert [job.position for job in found(redis.url, *ids)] == [1, 2]
    with worker(redis.url, target.url, folder=tmp_path) as mine:
        jobs = ended(redis.url, *ids)
        assert [text(job) for job in jobs] == ["a 7", "b 7"]
        view = jobs[0].view()
        assert view["result"]["job_id"] == view["result"]["request_id"] == ids[0] == view["job_id"]
        assert view["tokens_generated"] == 3 and view["preemptions"] == 1 and view["prompt_tokens"] == 2
        assert view["metadata"] == {"mine": 1} and view["result"]["metadata"] == {"mine": 1, "model_name": "m"}
        assert view["reason"] == "stop" and view["position"] is None
        assert jobs[0].task() == {"task_id": ids[0], "status": "SUCCESS", "result": "a 7"}
        assert {body["user"] for body in target.asked} == {"me"}
        (third,) = submit(redis.url, "c")
        assert text(ended(redis.url, third)[0]).startswith("c ") and text(ended(redis.url, third)[0]) != "c "
        until(lambda: _left_in(redis) == 0)
        assert mine.end() == 0
        assert "Traceback" not in mine.said and "error" not in mine.said and f"job {third}: finished" in mine.said


def _left_in(redis: Redis) -> int:
    """Messages and unended jobs."""
    client = redis_client.Redis(port=redis.port)
    with client:
        lists = [key for key in client.keys("fastserve:queue*") if client.type(key) == b"list"]
        waiting = sum(int(client.llen(key)) for key in lists)
        return waiting + int(client.hlen("fastserve:unacked")) + int(client.zcard("fastserve:pending"))


def test_kill_9_of_a_worker_in_mid_job(redis: Redis, target: Server, tmp_path: Path) -> None:
    go = target.answers["slow"] = threading.Event()
    ids = submit(redis.url, "slow", *[f"p{number}" for number in range(20)], seed=1)
    with worker(redis.url, target.url, "--concurrency", "2", folder=tmp_path) as first:
        until(lambda: "slow" in target.prompts())
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with worker(redis.url, target.url, "--concurrency", "2", folder=tmp_path):
        until(lambda: target.prompts().count("slow") == 2)
        go.set()
        jobs = ended(redis.url, *ids)
        assert [text(job) for job in jobs] == ["slow 1", *[f"p{number} 1" for number in range(20)]]
        assert until(lambda: _left_in(redis) == 0)


def test_kill_9_and_restart_of_redis(redis: Redis, target: Server, tmp_path: Path) -> None:
    """While jobs run, wait and end: every job has its answer, and few were asked for twice."""
    go = target.answers["slow"] = threading.Event()
    with worker(redis.url, target.url, "--concurrency", "3", folder=tmp_path) as mine:
        ids = submit(redis.url, "slow", *[f"p{number}" for number in range(60)], seed=1)
        until(lambda: len(target.asked) > 5)
        redis.kill()
        time.sleep(0.3)
        redis.start()
        ids += submit(redis.url, "after", seed=1)
        go.set()
        jobs = ended(redis.url, *ids)
        wanted = ["slow 1", *[f"p{number} 1" for number in range(60)], "after 1"]
        assert [text(job) for job in jobs] == wanted
        assert until(lambda: _left_in(redis) == 0)
        assert mine.process.poll() is None
    assert len(target.asked) <= len(ids) + 6


def test_redis_is_down_while_a_job_ends(redis: Redis, target: Server, tmp_path: Path) -> None:
    go = target.answers["slow"] = threading.Event()
    with worker(redis.url, target.url, folder=tmp_path) as mine:
        (id,) = submit(redis.url, "slow", seed=3)
        until(lambda: target.asked)
        redis.kill()
        go.set()
        until(lambda: "the queue does not answer" in mine.said)
        redis.start()
        (job,) = ended(redis.url, id)
        assert text(job) == "slow 3" and target.prompts() == ["slow"]
        assert until(lambda: _left_in(redis) == 0)
        assert target.prompts() == ["slow"]


def test_a_server_that_is_restarted(redis: Redis, tmp_path: Path) -> None:
    first = Server()
    first.answers["slow"] = threading.Event()
    with worker(redis.url, first.url, folder=tmp_path):
        ids = submit(redis.url, "slow", seed=3)
        until(lambda: first.asked)
        port = first.port
        first.answers["slow"].set()
        first.answers["slow"] = (503, {"detail": "the server is shutting down"})
        first.close()
        ids += submit(redis.url, "later", seed=3)
        time.sleep(0.5)
        second = Server(port)
        try:
            assert [job.state for job in ended(redis.url, *ids)] == ["finished", "finished"]
        finally:
            second.close()


def test_two_workers_share_and_none_runs_twice(redis: Redis, target: Server, tmp_path: Path) -> None:
    flags = ("--concurrency", "2")
    gates = [threading.Event() for _ in range(4)]
    for number, gate in enumerate(gates):
        target.answers[f"p{number}"] = gate
    ids = submit(redis.url, *[f"p{number}" for number in range(40)], seed=1)
    with (
        worker(redis.url, target.url, *flags, folder=tmp_path) as one,
        worker(redis.url, target.url, *flags, folder=tmp_path) as other,
    ):
        until(lambda: len(target.asked) == 4)  # two each
        for gate in gates:
            gate.set()
        jobs = ended(redis.url, *ids)
        assert all(job.state == "finished" for job in jobs)
        assert sorted(target.prompts()) == sorted(f"p{number}" for number in range(40))
        assert "finished" in one.said and "finished" in other.said


def test_a_job_longer_than_the_visibility_timeout_runs_once(redis: Redis, target: Server, tmp_path: Path) -> None:
    go = target.answers["slow"] = threading.Event()
    with worker(redis.url, target.url, folder=tmp_path), worker(redis.url, target.url, folder=tmp_path):
        (id,) = submit(redis.url, "slow", seed=3)
        until(lambda: target.asked)
        time.sleep(4.5)  # more than twice the timeout of 2 s
        go.set()
        assert text(ended(redis.url, id)[0]) == "slow 3" and target.prompts() == ["slow"]


def test_poison_and_refused_jobs(redis: Redis, target: Server, tmp_path: Path) -> None:
    """A job that its server cannot answer is tried five times, one that it refuses once; the others go on."""
    target.answers["poison"] = (500, {"detail": "request 1 failed"})
    target.answers["refused"] = (400, {"error": {"message": "too long", "code": 400}})
    target.answers["odd"] = (200, {"no": "text"})
    ids = submit(redis.url, "poison", "refused", "odd", "fine", seed=1)
    with worker(redis.url, target.url, folder=tmp_path):
        poison, refused, odd, fine = ended(redis.url, *ids)
        assert (
            poison.state == "failed" and "request 1 failed" in (poison.error or "") and "5 of 5" in (poison.error or "")
        )
        assert target.prompts().count("poison") == 5
        assert refused.state == "failed" and refused.error == "HTTP 400: too long"
        assert target.prompts().count("refused") == 1 == target.prompts().count("odd")
        assert odd.state == "failed" and text(fine) == "fine 1"
        assert refused.task() == {"task_id": ids[1], "status": "FAILURE", "result": "HTTP 400: too long"}


def test_a_job_that_kills_its_workers_fails_in_the_end(redis: Redis, target: Server, tmp_path: Path) -> None:
    (id,) = submit(redis.url, "p", seed=1)
    with redis_client.Redis(port=redis.port) as client:
        client.hset(f"fastserve:job:{id}", "deliveries", 10)  # as if ten had died
    with worker(redis.url, target.url, folder=tmp_path):
        (job,) = ended(redis.url, id)
    assert job.state == "failed" and "workers died" in (job.error or "") and target.asked == []


def test_cancelled_while_it_waits_and_while_it_runs(redis: Redis, target: Server, tmp_path: Path) -> None:
    target.answers["runs"] = threading.Event()
    with worker(redis.url, target.url, "--concurrency", "1", folder=tmp_path):
        runs, waits, last = submit(redis.url, "runs", "waits", "last", seed=1)
        until(lambda: target.asked)
        job = with_queue(redis.url, lambda queue: queue.cancel(waits, "me"))
        assert job is not None and job.state == "cancelled"
        assert with_queue(redis.url, lambda queue: queue.cancel(runs, "other")) is None
        job = with_queue(redis.url, lambda queue: queue.cancel(runs, "me"))
        assert job is not None and job.state == "cancelled" and job.task()["status"] == "REVOKED"
        assert until(lambda: target.left) == ["runs"]
        assert text(ended(redis.url, last)[0]) == "last 1"
        assert target.prompts() == ["runs", "last"]
        job = with_queue(redis.url, lambda queue: queue.cancel(last, "me"))
        assert job is not None and job.state == "finished"


def test_a_message_that_was_lost_is_sent_again(redis: Redis, target: Server, tmp_path: Path) -> None:
    """As when a worker is killed between taking it and noting that it has."""
    ids = submit(redis.url, "a", "b", seed=1)
    with redis_client.Redis(port=redis.port) as client:
        assert client.rpop("fastserve:queue:5") is not None
    with worker(redis.url, target.url, folder=tmp_path) as mine:
        assert [text(job) for job in ended(redis.url, *ids)] == ["a 1", "b 1"]
        assert sorted(target.prompts()) == ["a", "b"] and "1 jobs had lost" in mine.said


def test_the_more_urgent_go_first(redis: Redis, target: Server, tmp_path: Path) -> None:
    for prompt, priority in (("usual", 0), ("late", 3), ("soon", -2), ("sooner", -100), ("latest", 100)):
        submit(redis.url, prompt, seed=1, priority=priority)
    with worker(redis.url, target.url, "--concurrency", "1", folder=tmp_path):
        until(lambda: len(target.asked) == 5)
    assert target.prompts() == ["sooner", "soon", "usual", "late", "latest"]


def test_sigterm_lets_jobs_end(redis: Redis, target: Server, tmp_path: Path) -> None:
    go = target.answers["slow"] = threading.Event()
    with worker(redis.url, target.url, folder=tmp_path) as mine:
        (id,) = submit(redis.url, "slow", seed=3)
        until(lambda: target.asked)
        mine.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert mine.process.poll() is None
        go.set()
        assert mine.process.wait(20) == 0
    assert text(found(redis.url, id)[0]) == "slow 3" and _left_in(redis) == 0


def test_its_key_comes_from_the_environment(
    redis: Redis, target: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-token")
    (id,) = submit(redis.url, "a", seed=3)
    with worker(redis.url, target.url, "--server-key-env", "MY_KEY", folder=tmp_path) as mine:
        assert ended(redis.url, id)[0].state == "finished"
        assert target.tokens == ["Bearer secret-token"] and "secret-token" not in mine.said


def test_a_worker_that_slept_stores_no_second_answer(redis: Redis, target: Server, tmp_path: Path) -> None:
    """It is stopped for longer than the visibility timeout; another one runs the job; then it wakes up and answers."""
    first_go = target.answers["slow"] = threading.Event()
    with worker(redis.url, target.url, folder=tmp_path) as sleeper:
        (id,) = submit(redis.url, "slow", seed=3)
        until(lambda: target.asked)
        sleeper.process.send_signal(signal.SIGSTOP)
        target.answers["slow"] = (200, {"text": "the other's", "tokens_generated": 1, "finish_reason": "stop"})
        with worker(redis.url, target.url, folder=tmp_path):
            assert text(ended(redis.url, id)[0]) == "the other's"
            first_go.set()
            sleeper.process.send_signal(signal.SIGCONT)
            (after,) = submit(redis.url, "after", seed=1)
            assert text(ended(redis.url, after)[0]) == "after 1"
            until(lambda: f"job {id}" in sleeper.said)
    assert text(found(redis.url, id)[0]) == "the other's" and target.prompts().count("slow") == 2
    assert until(lambda: _left_in(redis) == 0)


def test_of_two_messages_for_one_job_one_runs_it(redis: Redis, target: Server, tmp_path: Path) -> None:
    go = target.answers["slow"] = threading.Event()
    (id,) = submit(redis.url, "slow", seed=3)
    with redis_client.Redis(port=redis.port) as client:
        (message,) = client.lrange("fastserve:queue:5", 0, -1)
        other = message.replace(b'"delivery_tag": "', b'"delivery_tag": "x')
        assert other != message
        client.lpush("fastserve:queue:5", other)
    with worker(redis.url, target.url, folder=tmp_path):
        until(lambda: target.asked)
        time.sleep(1)
        go.set()
        assert text(ended(redis.url, id)[0]) == "slow 3"
        assert until(lambda: _left_in(redis) == 0)
    assert target.prompts() == ["slow"]


def test_what_is_kept_is_bounded(redis: Redis, target: Server, tmp_path: Path) -> None:
    """Requests by their size, results by their number and their time."""

    async def fill(queue: JobQueue) -> int:
        count = 0
        while count < 20:
            try:
                await queue.submit({"prompt": "x" * 300_000}, client="me", model="m")
            except QueueFullError:
                return count
            count += 1
        return count

    async def with_bound() -> None:
        queue = JobQueue(QueueSettings(queue=SecretStr(redis.url), queue_mib=1.0, queue_hours=1.0 / 3600))
        try:
            assert await fill(queue) == 3
            listed = await queue.listed("me")
            assert listed is not None and listed.total == 3
            first = listed.jobs[0].id
            assert (await queue.cancel(first, "me")) is not None
            assert await fill(queue) == 1
            for job in listed.jobs[1:]:
                await queue.cancel(job.id, "me")
            await asyncio.sleep(1.2)
            assert await queue.find(first, "me") is None  # an hour's 3600th part is over
            listed = await queue.listed("me")
            assert listed is not None and listed.total == 1
        finally:
            await queue.close()

    asyncio.run(with_bound())


def test_ended_jobs_beyond_the_bound_go(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEEP_JOBS", 5)
    ids = submit(redis.url, *[f"p{number}" for number in range(8)])
    for id in ids:
        with_queue(redis.url, lambda queue, id=id: queue.cancel(id, "me"))  # type: ignore[misc]
    assert [job.id for job in found(redis.url, *ids)] == ids[3:]
    with redis_client.Redis(port=redis.port) as client:
        assert client.zcard("fastserve:jobs") == client.zcard("fastserve:jobs:me") == 5
        assert int(client.get("fastserve:bytes") or 0) == 0


def test_a_redis_that_is_full_refuses_and_keeps_what_it_has(redis: Redis) -> None:
    ids = submit(redis.url, "a")
    with redis_client.Redis(port=redis.port) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(QueueDownError, match=r"maxmemory|OOM"):
            submit(redis.url, "b")
        client.config_set("maxmemory", 0)
    ids += submit(redis.url, "c")
    assert [job.state for job in found(redis.url, *ids)] == ["queued", "queued"]


def test_a_worker_that_stops_gives_back_what_it_cannot_end(redis: Redis, target: Server, tmp_path: Path) -> None:
    """A job that waits for its server at once, one that runs when its time is over; neither counts as a death."""
    target.answers["runs"] = threading.Event()
    target.answers["waits"] = (503, {"detail": "busy"})
    with worker(redis.url, target.url, "--drain-seconds", "0.5", folder=tmp_path) as mine:
        ids = submit(redis.url, "runs", "waits", seed=1)
        until(lambda: len(target.asked) > 1)
        began = time.monotonic()
        assert mine.end() == 0 and time.monotonic() - began < 15
        assert mine.said.count("given back") == 2 and "Traceback" not in mine.said
    assert [(job.state, job.position) for job in found(redis.url, *ids)] == [("queued", 1), ("queued", 2)]
    assert until(lambda: target.left) == ["runs"]
    target.answers.clear()
    with worker(redis.url, target.url, folder=tmp_path):
        assert [text(job) for job in ended(redis.url, *ids)] == ["runs 1", "waits 1"]
        assert until(lambda: _left_in(redis) == 0)
    with redis_client.Redis(port=redis.port) as client:
        assert [client.hget(f"fastserve:job:{id}", "deliveries") for id in ids] == [b"1", b"1"]
