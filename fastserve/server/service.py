"""Service: what one app does with its engine. The routes are about words, this is about jobs.

It lives on the event loop. The engine's thread reaches it only through an Outbox.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import psutil

from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.engine import QueueFull
from fastserve.engine.request import Piece
from fastserve.server.api.chat_template import ChatTemplate
from fastserve.server.api.errors import ApiError
from fastserve.server.api.outbox import Outbox
from fastserve.server.api.tokenization import Tokenization
from fastserve.server.auth import Auth
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.jobs.durable import Durable, Plea, interrupted
from fastserve.server.jobs.jobs import END_STATES, Board, Group, Scheduling, ServedJob, answer_of, new_id
from fastserve.server.jobs.store import Store
from fastserve.server.limits import RateLimits
from fastserve.server.telemetry.alerts import Alerts
from fastserve.server.telemetry.live import Hub
from fastserve.server.telemetry.metrics import Metrics
from fastserve.server.telemetry.totals import Totals

log = logging.getLogger("fastserve.server")

DRAINING = "the server is shutting down and takes no new requests"
DRAINED = "the server was shut down before this request had ended"


class Service:
    """Raises ValueError for a state folder, token file or chat template that cannot be used."""

    def __init__(self, engine: Engine, config: FastServeConfig) -> None:
        self.engine = engine
        self.config = config
        self.model = config.served_model_name or engine.model_name
        self.started = time.time()
        self.auth = Auth(config)
        self.limits = RateLimits(config)
        self.words = Tokenization(engine, ChatTemplate(engine.tokenizer, config.chat_template))
        self.board = Board(config.keep_jobs, config.keep_hours)
        self.tally = Totals()
        self.metrics = Metrics(engine, self.model)
        self.alerts = Alerts(config.alerts)
        self.hub = Hub(engine, self.board, self.tally)
        self.alone = asyncio.Lock()  # /v1/generate_nobatch
        self.process = psutil.Process()
        self.process.cpu_percent()  # what is asked next is measured from here
        self.draining = False
        self.cut = False  # the time to drain is over: who is cancelled now is not cancelled by its client
        self.outbox: Outbox | None = None
        self.store = Store(config.state_dir)
        self.durable = Durable(self.store, engine.model_name, self._run)

    # -- taking requests -------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Requests of waiting clients that are under way."""
        return sum(job.handle is not None and not job.durable for job in self.board.jobs.values())

    def check_model(self, name: str | None) -> None:
        """Raises ApiError 404 for a model that is not served here."""
        if name is not None and name not in (self.model, self.engine.model_name):
            raise ApiError(404, f"the model {name!r} is not served here; there is {self.model!r}", param="model")

    def admit(self, client: str, prompts: list[list[int]]) -> None:
        """One HTTP request, whatever number of jobs it makes. Raises ApiError 400, 429 or 503."""
        if self.draining:
            raise ApiError(503, DRAINING, retry_after=self.config.drain_seconds)
        if not self.engine.alive:
            raise ApiError(503, f"the engine has stopped: {self.engine.error or 'it was closed'}")
        longest = max(map(len, prompts))
        most = self.config.max_prompt_length
        if most is not None and longest > most:
            raise ApiError(400, f"a prompt of {longest} tokens; this server takes at most {most}", param="prompt")
        self.limits.admit(client, sum(map(len, prompts)))

    def room(self, prompt_tokens: int, wanted: int | None, default: int | None) -> int | None:
        """Output tokens of a request: what it wants, else the default as far as context and settings allow it.

        A default of None is what the context leaves, and stays None. Raises ApiError 400 with both numbers.
        """
        most = self.config.max_tokens
        if wanted is not None:
            if most is not None and wanted > most:
                what = f"{wanted} output tokens asked for; this server gives at most {most}"
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
    ) -> ServedJob:
        """A request to the engine, as the next choice of its group. Raises ApiError 400 or 503."""
        job = ServedJob(new_id(), client, kind, self.model, len(prompt), metadata or {})
        self._submit(job, prompt, params, group, scheduling, streams=streams)
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
    ) -> None:
        loop = asyncio.get_running_loop()
        if self.outbox is None or self.outbox.loop is not loop:
            self.outbox = Outbox(loop)
        post = self.outbox.post
        choice = 0 if group is None else len(group.jobs)
        take = partial(self._heard, job, job.attempts, group, choice)

        def every(piece: Piece) -> None:
            post(take, piece)

        def last(piece: Piece) -> None:
            if piece.finish_reason:
                post(take, piece)

        try:
            job.handle = self.engine.submit(
                prompt,
                params,
                client=job.client,
                timeout_s=None if job.durable else self.config.request_timeout or None,
                listener=every if streams else last,
                beyond_capacity=beyond_capacity,
                **scheduling._asdict(),
            )
        except QueueFull as error:
            raise ApiError(503, str(error), retry_after=1) from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        except RuntimeError as error:
            raise ApiError(503, str(error)) from error
        self.board.add(job)
        if group is not None:
            group.jobs.append(job)

    def _heard(self, job: ServedJob, attempts: int, group: Group | None, choice: int, piece: Piece) -> None:
        """On the event loop, in the order in which the engine spoke."""
        if attempts != job.attempts:
            return  # settled already, and the job goes on
        if piece.finish_reason:
            output = self._end(job)
            job.output = None
            if group is not None:
                group.outputs[choice] = output
        if group is not None:
            group.feed.put(choice, piece)

    def settle(self, job: ServedJob) -> None:
        """A job that the engine has ended is written down, also if the event loop that should hear of it is gone."""
        if job.handle is not None and job.handle.done:
            self._end(job)

    def _end(self, job: ServedJob) -> Output:
        """The last piece of this job was handed out, or is about to be: its listener hears of it a moment before."""
        handle = job.handle
        if handle is None:
            assert job.output is not None
            return job.output
        output = job.output = handle.result()
        self.board.names.pop(handle.id, None)
        job.handle = None
        if job.durable and self._goes_on(job, output):
            self._try_again(False)
            return output
        job.ended = time.time()
        job.state = END_STATES[output.finish_reason]
        job.error = output.error
        if output.finish_reason == "cancelled" and self.cut:
            job.error = DRAINED
        job.answer = answer_of(job, output, self.engine.info.backend)
        self.limits.book(job.client, len(output.token_ids))
        self.tally.ended(job, output)
        self.metrics.ended(output, handle)
        if self.alerts.limits:
            self.alert(self.tally.recent())
        if job.durable:
            self.durable.write(job)
        self._forget(job)
        self._try_again(output.finish_reason in ("stop", "length"))
        return output

    def _try_again(self, well: bool) -> None:
        """A durable job that a failed step took may run again, now that another one has ended."""
        if self.durable.parked and not self.cut:
            self.durable.try_again(well, idle=not self._live())

    def _goes_on(self, job: ServedJob, output: Output) -> bool:
        """Whether a durable job was only interrupted: it stays queued on disk, for the next run of the server."""
        if self.cut and output.finish_reason == "cancelled":
            job.error = f"{DRAINED}; it goes on when the server is started again"
        elif not self.engine.alive and interrupted(output, self.engine.error):
            job.error = f"the engine has stopped: {output.error}; this job goes on when the server is started again"
        else:
            return output.by_step and self.durable.lost_its_step(job, str(output.error))
        return True

    def _forget(self, ended: ServedJob) -> None:
        """Who has been remembered for long enough, now that this one has ended."""
        for job in self.board.end(ended):
            if job.durable:
                self.store.remove(job.id)

    def alert(self, values: dict[str, float]) -> None:
        """One warning for each threshold that is newly crossed."""
        for name, (value, limit) in self.alerts.crossed(values).items():
            log.warning("alert: %s is %.3g, above the threshold of %.3g", name, value, limit)

    # -- durable jobs ----------------------------------------------------------------------------------------------

    async def enqueue(
        self, prompt: list[int], params: SamplingParams, *, client: str, metadata: dict[str, Any],
        scheduling: Scheduling,
    ) -> ServedJob:  # fmt: skip
        """A job that is on disk when this returns. Raises ApiError 400 or 503, and then it is not."""
        plea = Plea(self.engine.model_name, prompt, params, metadata, scheduling)
        return await self.durable.enqueue(client, self.model, plea)

    def _run(self, job: ServedJob, plea: Plea, beyond_capacity: bool) -> None:
        self._submit(job, plea.prompt, plea.params, None, plea.scheduling, beyond_capacity=beyond_capacity)

    def resume(self) -> int:
        """Jobs of an earlier run: who has ended still answers, who has not runs again. How many run again."""
        rows = self.store.rows(self.config.keep_jobs, self.config.keep_hours)
        jobs = [self.durable.restore(row, self.model) for row in rows]
        for job in jobs:
            self.board.add(job)
        if self.durable.parked:
            self.durable.try_again(well=True, idle=True)
        waits = sum(job.handle is None and job.ended is None for job in jobs)
        if waits:
            log.warning("%d jobs of an earlier run wait for another model, or for an engine that works", waits)
        return sum(job.handle is not None for job in jobs)

    def drop(self, job: ServedJob) -> None:
        """A durable job that waits for another run of the server shall not go on."""
        self.durable.end(job, "cancelled", None)
        self._forget(job)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """No new requests; those of waiting clients may end within drain_seconds, then all are cut off."""
        self.draining = True
        deadline = time.monotonic() + self.config.drain_seconds
        while time.monotonic() < deadline and any(not job.durable for job in self._live()):
            await asyncio.sleep(0.02)
        await self._stop()

    async def _stop(self) -> None:
        """Everything that still runs is cut off; durable jobs stay queued on disk."""
        self.cut = True
        self.hub.close()
        for job in self._live():
            job.cancel()
        for _ in range(100):
            if not self.engine.alive or not self._live():
                return
            await asyncio.sleep(0.02)

    def _live(self) -> list[ServedJob]:
        return [job for job in self.board.jobs.values() if job.handle is not None]

    async def close(self) -> None:
        """The engine is its owner's to close."""
        await self._stop()
        await self.auth.close()
        await asyncio.to_thread(self.store.close)
