"""Parts of the runner that need no Redis."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fastserve.jobqueue.runner import _stopped

pytestmark = pytest.mark.anyio


async def test_a_task_that_loses_a_cancellation_is_stopped_all_the_same() -> None:
    """As redis-py's may, where it comes at the moment of an answer: a job's signs of life went on for ever."""

    async def beats() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(beats())
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await _stopped(task)
    assert task.cancelled()
