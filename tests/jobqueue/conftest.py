from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("celery", reason="needs the queue extra")

from tests.jobqueue.processes import Server, redis, server

__all__ = ["anyio_backend", "redis", "target"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def target() -> Iterator[Server]:
    with server() as found:
        yield found
