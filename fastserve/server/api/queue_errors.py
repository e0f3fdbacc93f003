"""What a client is told where the queue of jobs is full or does not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastserve.jobqueue.jobs import QueueDownError, QueueFullError
from fastserve.server.api.errors import ApiError


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """ApiError 503 for a queue that is full or does not answer."""
    try:
        yield
    except QueueFullError as error:
        raise ApiError(503, str(error), retry_after=10) from error
    except QueueDownError as error:
        raise ApiError(503, f"{error}; try again later", retry_after=5) from error
