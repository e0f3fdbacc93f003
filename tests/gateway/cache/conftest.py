from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the gateway extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

from tests.jobqueue.processes import redis

__all__ = ["anyio_backend", "redis"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
