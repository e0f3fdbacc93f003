"""What is no message of ours, in the queue's lists: it is put aside, and the jobs around it are done."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from fastserve.jobqueue import messages
from fastserve.jobqueue.keeper import Keeper
from tests.jobqueue.processes import Redis, Server, until, worker
from tests.jobqueue.test_worker import ended, submit, text


def as_body(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def poisons(good: bytes) -> dict[str, bytes]:
    """Made from a message that is right."""
    message = json.loads(good)
    headers, properties = message["headers"], message["properties"]

    def but(**changes: Any) -> bytes:
        return json.dumps({**message, **{name.replace("_", "-"): value for name, value in changes.items()}}).encode()

    return {
        "no JSON": b"garbage",
        "no UTF-8": b"\xff\xfe{",
        "a list": b"[]",
        "a number": b"7",
        "an empty object": b"{}",
        "deep": b"[" * 100_000,
        "an unknown type of kombu's": b'{"__type__": "nothing", "__value__": 1}',
        "a body that is no base64": but(body="!!!"),
        "a body that is no JSON": but(body=base64.b64encode(b"{").decode()),
        "a body without a job": but(body=as_body([[], {}, {}])),
        "a body that is deep": but(body=base64.b64encode(b"[" * 100_000).decode()),
        "a body of another job": but(body=as_body([["other"], {}, {}])),
        "a body that is a number": but(body=5),
        "no headers": but(headers={}),
        "headers that are a list": but(headers=[1]),
        "a body that is too short": but(body=as_body([[headers["id"]]])),
        "arguments that have names": but(body=as_body([[headers["id"]], 5, {}])),
        "something to do next": but(body=as_body([[headers["id"]], {}, {"chain": [{"task": "os.system"}]}])),
        "time limits that are none": but(headers={**headers, "timelimit": 5}),
        "an end that is none": but(headers={**headers, "expires": {}}),
        "stamps that are none": but(headers={**headers, "stamped_headers": 5, "stamps": 5}),
        "a start in 9999": but(headers={**headers, "eta": "9999-12-31T23:59:59"}),
        "compressed": but(headers={**headers, "compression": "gzip"}),
        "another task": but(headers={**headers, "task": "os.system"}),
        "pickle": but(content_type="application/x-python-serialize"),
        "no properties": but(properties={}),
        "a tag that is a list": but(properties={**properties, "delivery_tag": []}),
        "sent nowhere": but(properties={**properties, "delivery_info": 3}),
    }


def test_the_worker_goes_on(redis: Redis, target: Server, tmp_path: Path) -> None:
    (first,) = submit(redis.url, "before", seed=1)
    with redis_client.Redis(port=redis.port) as client:
        (good,) = client.lrange(f"fastserve:queue:{messages.USUAL}", 0, -1)
        bad = poisons(good)
        for each in bad.values():
            client.lpush("fastserve:queue", each)
        client.lpush("fastserve:queue:3", b"x" * (2 * messages.UNREADABLE_LONGEST))
        with worker(redis.url, target.url, folder=tmp_path) as mine:
            (second,) = submit(redis.url, "after", seed=1)
            assert [text(job) for job in ended(redis.url, first, second)] == ["before 1", "after 1"]
            until(lambda: client.llen("fastserve:unreadable") == len(bad) + 1)
            for each in bad.values():  # to a worker that is at work
                client.lpush("fastserve:queue", each)
            until(lambda: client.llen("fastserve:unreadable") == 2 * len(bad) + 1)
            (third,) = submit(redis.url, "at last", seed=1)
            assert text(ended(redis.url, third)[0]) == "at last 1"
            assert mine.end() == 0
            assert mine.said.count("cannot be read") == 2 * len(bad) + 1 and "Traceback" not in mine.said
        assert target.prompts() == ["before", "after", "at last"]
        assert max(map(len, mine.said.splitlines())) < 1000
        kept = client.lrange("fastserve:unreadable", 0, -1)
        assert max(map(len, kept)) == messages.UNREADABLE_LONGEST
        assert b"garbage" in kept and client.hlen("fastserve:unacked") == 0


def test_few_are_kept(redis: Redis, target: Server, tmp_path: Path) -> None:
    with redis_client.Redis(port=redis.port) as client, worker(redis.url, target.url, folder=tmp_path) as mine:
        client.lpush("fastserve:queue", *(f"bad {number}" for number in range(messages.UNREADABLE_MOST + 20)))
        until(lambda: client.llen("fastserve:queue") == 0)
        until(lambda: mine.said.count("cannot be read") == messages.UNREADABLE_MOST + 20)
        kept = client.lrange("fastserve:unreadable", 0, -1)
        assert len(kept) == messages.UNREADABLE_MOST and kept[0] == f"bad {messages.UNREADABLE_MOST + 19}".encode()


def test_the_keeper_looks_past_it(redis: Redis) -> None:
    lost, there = submit(redis.url, "lost", "there")
    keeper = Keeper(redis.url, messages.celery(redis.url), look_s=0.01, grace_s=0.0)
    key = f"fastserve:queue:{messages.USUAL}"
    with redis_client.Redis(port=redis.port) as client:
        good = next(each for each in client.lrange(key, 0, -1) if json.loads(each)["headers"]["id"] == there)
        bad = poisons(good)
        client.delete(key)
        for taken in (b"garbage", b"[]", b"{}", b"[7]", b"[" * 100_000):
            client.hset("fastserve:unacked", taken[:20], taken)
        client.rpush("fastserve:queue", *bad.values())
        client.rpush(key, good)
        for number in range(len(bad) + 5):  # (it only looks where jobs outnumber messages)
            client.zadd("fastserve:pending", {f"ended-{number}": 1e12})
        assert until(keeper.look) == 1
        named = [json.loads(each)["headers"]["id"] for each in client.lrange(key, 0, -1)]
        assert sorted(named) == sorted([lost, there])
    keeper.redis.close()


@pytest.mark.parametrize("message", [None, 3, [], {}, {"headers": {}}, {"headers": {}, "properties": []}])
def test_what_is_no_message(message: object) -> None:
    with pytest.raises(ValueError, match="is no"):
        messages.job_of(message)
