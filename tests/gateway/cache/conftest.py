from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the gateway extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

from tests.jobqueue.processes import REDIS, Redis, redis_server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    if REDIS is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    pytest.importorskip("redis", reason="needs the queue extra")
    with redis_server(tmp_path / "redis") as found:
        yield found
