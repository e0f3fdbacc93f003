from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("celery", reason="needs the queue extra")

from tests.jobqueue.processes import REDIS, Redis, Server, redis_server, server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if REDIS is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    with redis_server(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def target() -> Iterator[Server]:
    with server() as found:
        yield found
