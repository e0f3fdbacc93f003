"""Service: request admission, job lifecycle, drain and shutdown of one app. Routes parse and format; this runs jobs.

Event loop only. The engine's thread reaches it through a LoopDispatcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil

from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.adapters import UnknownAdapterError
from fastserve.engine.engine import QueueFull, RefusedError
from fastserve.engine.request import Piece
from fastserve.jobqueue.jobs import JobQueue
from fastserve.server.api.chat_template import ChatTemplate
from fastserve.server.api.content_filter import ContentFilter
from fastserve.server.api.errors import ApiError
from fastserve.server.api.piece_queue import LoopDispatcher
from fastserve.server.api.tokenization import Tokenization
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http.auth import Auth
from fastserve.server.http.ids import new_id
from fastserve.server.http.input_pool import InputPool
from fastserve.server.http.limits import RateLimits
from fastserve.server.jobs.durable import Durable, JobRequest, interrupted
from fastserve.server.jobs.jobs import (
    Group,
    JobRegistry,
    Scheduling,
    ServedJob,
    answer_of,
    weight_of,
)
from fastserve.server.jobs.rows import END_STATES
from fastserve.server.jobs.store import Store
from fastserve.server.programs import Programs
from fastserve.server.served_adapters import ServedAdapters
from fastserve.server.telemetry.alerts import Alerts
from fastserve.server.telemetry.live import Broadcaster
from fastserve.server.telemetry.load import LoadNow
from fastserve.server.telemetry.metrics import Metrics
from fastserve.server.telemetry.totals import Totals

log = logging.getLogger("fastserve.server")

UPKEEP_S = 60.0
"""Seconds between two looks at the age of ended jobs."""

BODIES_AT_ONCE = 8
"""Bodies of the largest size that may be in memory unparsed."""

DRAINING = "the server is shutting down and accepts no new requests"
DRAINED = "the server was shut down before this request had ended"


class Service:
    """Raises ValueError for a state folder, token file or chat template that cannot be used, MissingPackageError."""

    def __init__(self, engine: Engine, config: FastServeConfig, store: Store | None = None) -> None:
        self.engine = engine
        self.config = config
        self.model = config.served_model_name or engine.model_name
        self.started = time.time()
        self.auth = Auth(config)
        self.limits = RateLimits(config)
        self.programs = Programs(apart=config.share_prefixes == "client")
        self.max_body_bytes = round(config.max_body_mib * (1 << 20))
        self.input_pool = InputPool(BODIES_AT_ONCE * self.max_body_bytes)
        chat = ChatTemplate(engine.tokenizer, config.chat_template)
        filter = None if config.content_filter is None else ContentFilter(config.content_filter)
        self.tokenization = Tokenization(engine, chat, self.input_pool, filter)
        self.registry = JobRegistry(config.keep_jobs, config.keep_hours, config.keep_mib * (1 << 20))
        self.totals = Totals()
        self.load_now = LoadNow(engine, self.totals)
        self.metrics = Metrics(engine, self.model, self.totals)
        self.alerts = Alerts(config.alerts)
        self.broadcaster = Broadcaster(engine, self.registry, self.totals)
        self.nobatch_lock = asyncio.Lock()  # /v1/generate_nobatch
        self.process = psutil.Process()
        self.process.cpu_percent()  # the first call starts the interval of the next
        self.draining = False
        self.stopping = False  # the drain is over: cancellations now are the server's, not the client's
        self.dispatcher: LoopDispatcher | None = None
        self.store = Store(config.state_dir) if store is None else store
        self.upkeep: asyncio.Task[None] | None = None
        self.durable = Durable(self.store, engine.model_name, self._run)
        self.adapters = ServedAdapters(engine, self.model, self.registry, self.durable)
        self.job_queue = None if config.queue is None else JobQueue(config)  # instead of the store, for new jobs

    # -- admission -------------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Requests in flight, for which a drain waits; durable jobs are resumed by the next start and do not count."""
        return sum(job.handle is not None and not job.durable for job in self.registry.jobs.values())

    @property
    def stored(self) -> int:
        """Durable jobs that have not ended."""
        return sum(job.durable and job.ended is None for job in self.registry.jobs.values())

    @property
    def caches_prefixes(self) -> bool:
        return self.engine.serving.prefix_cache == "on"

    def check_model(self, name: str | None) -> str:
        """See ServedAdapters.of_model()."""
        return self.adapters.of_model(name)

    def check_open(self, client: str | None) -> None:
        """Asked before a body is read. client: None for one that is not known yet. Raises ApiError 429 or 503."""
        if self.draining:
            raise ApiError(503, DRAINING, retry_after=self.config.drain_seconds)
        if not self.engine.alive:
            raise ApiError(503, f"the engine has stopped: {self.engine.error or 'it was closed'}")
        if client is not None:
            self.limits.test(client)

    def admit(self, client: str, prompts: list[list[int]]) -> None:
        """Admits one HTTP request, with all its prompts. Raises ApiError 400, 429 or 503."""
        self.check_open(client)
        longest = max(map(len, prompts))
        most = self.config.max_prompt_length
        if most is not None and longest > most:
            what = f"a prompt of {longest} tokens; this server accepts at most {most}: the prompt is too long"
            raise ApiError(400, what, param="prompt")
        self._make_sure_of_memory(sum(map(weight_of, map(len, prompts))))
        self.limits.admit(client, sum(map(len, prompts)))

    def _make_sure_of_memory(self, weight: int) -> None:
        """Raises ApiError 400 for a request that never fits into keep_mib, 503 for one that does not now."""
        most = self.config.keep_mib
        told = f"this request takes {weight / (1 << 20):.3g} MiB of this server's memory for requests ({most:g} MiB)"
        if weight > most * (1 << 20):
            raise ApiError(400, f"{told}: more than there is; send less at once, or raise keep_mib", param="prompt")
        if not self.registry.has_room(weight):
            raise ApiError(503, f"{told}, and those that run or wait have taken it: try again later", retry_after=1)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the engine's queue for a request that waits before it. Raises ApiError 503."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.engine.place())
            except QueueFull as error:
                raise _queue_full(error) from error
            yield

    def output_limit(self, prompt_tokens: int, wanted: int | None, default: int | None) -> int | None:
        """max_tokens of a request: as requested, else the default, cut to what context and settings allow.

        A default of None stays None: the rest of the context. Raises ApiError 400 above the server's limit.
        """
        most = self.config.max_tokens
        if wanted is not None:
            if most is not None and wanted > most:
                what = f"{wanted} output tokens requested; this server allows at most {most}"
                raise ApiError(400, what, param="max_tokens")
            return wanted
        left = self.engine.max_model_len - prompt_tokens
        if most is not None:
            left = min(left, most)
        if default is None and most is None:
            return None
        return max(1, left if default is None else min(default, left))

    def start(
        self,
        prompt: list[int],
        params: SamplingParams,
        group: Group | None,
        *,
        client: str,
        kind: str,
        scheduling: Scheduling,
        metadata: dict[str, Any] | None = None,
        streams: bool = False,
        prepared: bool = False,
    ) -> ServedJob:
        """Submits a job to the engine, as the next choice of its group. prepared: see Engine.submit().

        Raises ApiError 400 or 503.
        """
        job = ServedJob(new_id(), client, kind, scheduling.adapter or self.model, len(prompt), metadata or {},
                        adapter=scheduling.adapter)  # fmt: skip
        self._submit(job, prompt, params, group, scheduling, streams=streams, prepared=prepared)
        return job

    def _submit(
        self,
        job: ServedJob,
        prompt: list[int],
        params: SamplingParams,
        group: Group | None,
        scheduling: Scheduling,
        *,
        streams: bool = False,
        beyond_capacity: bool = False,
        prepared: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        if self.dispatcher is None or self.dispatcher.loop is not loop:
            self.dispatcher = LoopDispatcher(loop)
        post = self.dispatcher.post
        choice = 0 if group is None else len(group.jobs)
        on_piece = partial(self._on_piece, job, job.attempts, group, choice)

        def every(piece: Piece) -> None:
            post(on_piece, piece)

        def last(piece: Piece) -> None:
            if piece.finish_reason:
                post(on_piece, piece)

        try:
            job.handle = self.engine.submit(
                prompt,
                params,
                client=job.client,
                timeout_s=None if job.durable else self.config.request_timeout or None,
                listener=every if streams else last,
                beyond_capacity=beyond_capacity,
                prepared=prepared,
                **scheduling._asdict(),
            )
        except QueueFull as error:
            raise _queue_full(error) from error
        except UnknownAdapterError as error:
            raise ApiError(404, str(error), param="model") from error
        except ValueError as error:
            param = "prompt" if isinstance(error, RefusedError) else getattr(error, "param", None)
            raise ApiError(400, str(error), param=param) from error
        except RuntimeError as error:
            raise ApiError(503, str(error)) from error
        self.registry.add(job)
        if group is not None:
            group.jobs.append(job)

    def _on_piece(self, job: ServedJob, attempts: int, group: Group | None, choice: int, piece: Piece) -> None:
        """On the event loop, in the order of the engine's output."""
        if attempts != job.attempts:
            return  # handled already, and the job was submitted again
        if piece.finish_reason:
            output = self._end(job)
            job.output = None
            if group is not None:
                group.outputs[choice] = output
        if group is not None:
            group.queue.put(choice, piece)

    def settle(self, job: ServedJob) -> None:
        """Records the end of a job that the engine has ended, even if its last piece has not reached the event loop."""
        if job.handle is not None and job.handle.done:
            self._end(job)

    def _end(self, job: ServedJob) -> Output:
        """Records the end of a job: state, result, totals, metrics, rate limits, job store."""
        handle = job.handle
        if handle is None:
            assert job.output is not None
            return job.output
        output = job.output = handle.result()
        self.registry.engine_ids.pop(handle.id, None)
        job.handle = None
        if job.durable and self._resumes(job, output):
            self._retry_one(well=False)
            return output
        job.end(END_STATES[output.finish_reason], output.error)
        if output.finish_reason == "cancelled" and self.stopping:
            job.error = DRAINED
        job.answer = answer_of(job, output, self.engine.info.backend, self.engine.estimates)
        self.limits.charge(job.client, len(output.token_ids))
        self.totals.ended(job, output)
        self.metrics.ended(output, handle)
        if self.alerts.limits:
            self.alert(self.totals.recent())
        if job.durable:
            self.durable.write(job)
        self._forget(job)
        self._retry_one(END_STATES[output.finish_reason] == "finished")
        return output

    def _retry_one(self, well: bool) -> None:
        """Retries a durable job of a failed step, now that another job has ended."""
        if self.durable.failed and not self.stopping:
            self.durable.retry_one(well, idle=not self._live())

    def _resumes(self, job: ServedJob, output: Output) -> bool:
        """Whether a durable job was only interrupted: it stays queued on disk, to be resumed or retried."""
        if self.stopping and output.finish_reason == "cancelled":
            job.error = f"{DRAINED}; it is resumed when the server is restarted"
        elif not self.engine.alive and interrupted(output, self.engine.error):
            job.error = f"the engine has stopped: {output.error}; this job is resumed when the server is restarted"
        else:
            return output.by_step and self.durable.step_failed(job, str(output.error))
        return True

    def _forget(self, ended: ServedJob) -> None:
        """Drops ended jobs beyond keep_jobs and keep_hours, also from the store."""
        self._drop_all(self.registry.end(ended))

    def _drop_all(self, jobs: list[ServedJob]) -> None:
        for job in jobs:
            if job.durable:
                self.store.remove(job.id)

    async def _upkeep(self) -> None:
        """What is due with time and not with requests: old jobs go though no other one ends."""
        while True:
            await asyncio.sleep(UPKEEP_S)
            self._drop_all(self.registry.expire())
            self.store.keep_age()

    def alert(self, values: dict[str, float]) -> None:
        """Logs a warning for each threshold that is newly crossed."""
        for name, (value, limit) in self.alerts.crossed(values).items():
            log.warning("alert: %s is %.3g, above the threshold of %.3g", name, value, limit)

    # -- durable jobs ----------------------------------------------------------------------------------------------

    async def enqueue(
        self, prompt: list[int], params: SamplingParams, *, client: str, metadata: dict[str, Any],
        scheduling: Scheduling,
    ) -> ServedJob:  # fmt: skip
        """A durable job: on disk when this returns. Raises ApiError 400 or 503, and then it is not stored."""
        request = JobRequest(self.engine.model_name, prompt, params, metadata, scheduling)
        return await self.durable.enqueue(client, scheduling.adapter or self.model, request)

    def _run(self, job: ServedJob, request: JobRequest, beyond_capacity: bool) -> None:
        self._submit(job, request.prompt, request.params, None, request.scheduling, beyond_capacity=beyond_capacity)

    def resume(self) -> int:
        """Restores the durable jobs of earlier runs; returns how many were submitted again."""
        jobs = []
        for row in self.store.rows(self.config.keep_jobs, self.config.keep_hours):
            job = self.durable.restore(row, self.model)
            self.registry.add(job, self.store.age_of(row))
            if job.ended is None:
                jobs.append(job)
        self._drop_all(self.registry.expire())
        self.upkeep = asyncio.ensure_future(self._upkeep())
        if self.durable.failed:
            self.durable.retry_one(well=True, idle=True)
        waiting = sum(job.handle is None and job.ended is None for job in jobs)
        if waiting:
            log.warning("%d durable jobs of an earlier run wait: for another model, an adapter or a retry", waiting)
        return sum(job.handle is not None for job in jobs)

    def drop(self, job: ServedJob) -> None:
        """Cancels a durable job that the engine does not hold."""
        self.durable.end(job, "cancelled", None)
        self._forget(job)

    # -- shutdown --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Refuses new requests; those in flight may end within drain_seconds, then all jobs are cancelled."""
        self.draining = True
        deadline = time.monotonic() + self.config.drain_seconds
        while time.monotonic() < deadline and any(not job.durable for job in self._live()):
            await asyncio.sleep(0.02)
        await self._stop()

    async def _stop(self) -> None:
        """Cancels everything that still runs; durable jobs stay queued on disk."""
        self.stopping = True
        self.broadcaster.close()
        for job in self._live():
            job.cancel()
        for _ in range(100):
            if not self.engine.alive or not self._live():
                return
            await asyncio.sleep(0.02)

    def _live(self) -> list[ServedJob]:
        return [job for job in self.registry.jobs.values() if job.handle is not None]

    async def close(self) -> None:
        """The caller closes the engine."""
        await self._stop()
        if self.upkeep is not None:
            self.upkeep.cancel()
        self.input_pool.close()
        await self.auth.close()
        if self.job_queue is not None:
            await self.job_queue.close()
        await asyncio.to_thread(self.store.close)


def _queue_full(error: QueueFull) -> ApiError:
    return ApiError(503, str(error), retry_after=1)
