"""Calls and replies made by hand."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from fastserve.bench import Call, Reply, Result, Sample
from fastserve.workload.requests import TraceRequest

MS = 1_000_000


def call(index: int = 0, due_ms: float = 0.0, prompt: Any = None, **fields: Any) -> Call:
    """fields: of its request."""
    given: dict[str, Any] = {"prompt": 3, "output": 4, "limit": 100} | fields
    request = TraceRequest(index, round(due_ms * MS), **given)
    return Call(request, np.array([7, 8, 9]) if prompt is None else prompt)


def reply(sent_ms: float, stamps_ms: list[float], finish: str = "length", **fields: Any) -> Reply:
    stamps = array("q", [round(at * MS) for at in stamps_ms])
    closed = stamps[-1] if stamps else round(sent_ms * MS)
    status = fields.pop("status", 200)
    return Reply(sent=round(sent_ms * MS), stamps=stamps, closed=closed, status=status, finish=finish, **fields)


def sample(call: Call, reply: Reply) -> Sample:
    return Sample(call, arrival=call.due, ready=call.due, reply=reply)


def result(samples: list[Sample], **fields: Any) -> Result:
    """A run that started at 0."""
    given: dict[str, Any] = {"planned": len(samples), "started": 0, "date": 1.8e9, "loop": "open"}
    given["ended"] = max([sample.reply.closed for sample in samples], default=0)
    return Result(samples=samples, **given | fields)
