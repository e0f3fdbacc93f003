"""The worker: Celery's own, with threads that wait for a server or gateway to answer.

Threads and not processes: a job here is an HTTP request, the work is the server's. All of a worker's jobs share one
event loop and one pool of connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import warnings
from typing import Any

from fastserve.jobqueue import messages, redis_url
from fastserve.jobqueue.attempt import Attempt
from fastserve.jobqueue.keeper import Keeper
from fastserve.jobqueue.runner import DRAIN_S, GivenBackError, Runner

log = logging.getLogger("fastserve.queue")

CONCURRENCY = 8


def work(
    url: str, server: str, *, key: str = "", concurrency: int = CONCURRENCY,
    visibility_s: float = messages.VISIBILITY_S, drain_s: float = DRAIN_S,
) -> int:  # fmt: skip
    """Runs jobs of the queue at `url` on `server` until SIGTERM or Ctrl-C; those that run have drain_s to end then.

    Returns the exit status. visibility_s: see messages; alike for all workers of a queue. Raises MissingPackageError.
    """
    app = messages.celery(url, visibility_s)
    from celery import signals

    _leave_logging_alone()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fastserve-queue-loop", daemon=True)
    thread.start()
    made = _runner(url, server, key, concurrency, visibility_s, drain_s)
    runner = asyncio.run_coroutine_threadsafe(made, loop).result()

    @app.task(name=messages.TASK, bind=True)  # type: ignore[untyped-decorator]
    def run(task: Any, id: str) -> None:
        from celery.exceptions import Reject

        tag = task.request.properties.get("delivery_tag") or ""
        try:
            asyncio.run_coroutine_threadsafe(runner.run(id, tag), loop).result()
        except GivenBackError as error:
            raise Reject(str(error), requeue=True) from error

    def stop(**_: Any) -> None:
        loop.call_soon_threadsafe(runner.stop)

    signals.worker_shutting_down.connect(stop)  # held weakly, so for as long as this runs
    keeper = Keeper(url, app, look_s=visibility_s / 2, grace_s=visibility_s / 2)
    keeper.start()
    log.info("jobs of the queue at %s, %d at a time, are run on %s", redis_url.shown(url), concurrency, server)
    worker = app.Worker(
        hostname=f"fastserve-{os.getpid()}@{socket.gethostname()}", pool="threads", concurrency=concurrency,
        without_gossip=True, without_mingle=True, without_heartbeat=True, task_events=False,
        quiet=True,
    )  # fmt: skip
    worker.start()
    keeper.stop()
    asyncio.run_coroutine_threadsafe(runner.close(), loop).result(redis_url.ANSWER_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(redis_url.ANSWER_S)
    return int(worker.exitcode or 0)


async def _runner(url: str, server: str, key: str, concurrency: int, visibility_s: float, drain_s: float) -> Runner:
    attempt = Attempt(server, key, connections=concurrency + 1)
    return Runner(url, attempt, visibility_s, 2 * concurrency + 8, drain_s)


def _leave_logging_alone() -> None:
    """Ours is set up already. And a container's only user may be root: a message holds an id, nothing that is run."""
    from celery import signals
    from celery.exceptions import SecurityWarning

    signals.setup_logging.connect(_configured, weak=False)
    if not log.isEnabledFor(logging.DEBUG):
        for noisy in ("celery", "kombu"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("celery.app.trace").setLevel(logging.ERROR)  # of jobs given back it tells with a traceback
    warnings.filterwarnings("ignore", category=SecurityWarning)


def _configured(**_: Any) -> None:
    """Celery sets up no logging where somebody else says that he does."""
