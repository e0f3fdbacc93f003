"""Service: what one app does with its engine. The routes are about words, this is about jobs.

It lives on the event loop. The engine's thread reaches it only through an Outbox.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import psutil

from fastserve.config import FastServeConfig
from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.engine import QueueFull
from fastserve.engine.request import Piece
from fastserve.server.alerts import Alerts
from fastserve.server.auth import Auth
from fastserve.server.chat import ChatTemplate
from fastserve.server.errors import ApiError
from fastserve.server.feed import Outbox
from fastserve.server.jobs import END_STATES, Board, Group, ServedJob, answer_of, new_id
from fastserve.server.limits import RateLimits
from fastserve.server.live import Hub
from fastserve.server.metrics import Metrics
from fastserve.server.store import Row, Store
from fastserve.server.tally import Tally

log = logging.getLogger("fastserve.server")

DRAINING = "the server is shutting down and takes no new requests"
DRAINED = "the server was shut down before this request had ended"
LONG_TEXT = 50_000
"""Characters from which on a prompt is tokenised beside the event loop."""


class Service:
    """Raises ValueError for a state folder, token file or chat template that cannot be used."""

    def __init__(self, engine: Engine, config: FastServeConfig) -> None:
        self.engine = engine
        self.config = config
        self.model = config.served_model_name or engine.model_name
        self.started = time.time()
        self.auth = Auth(config)
        self.limits = RateLimits(config)
        self.chat = ChatTemplate(engine.tokenizer, config.chat_template)
        self.board = Board(config.keep_jobs, config.keep_hours)
        self.tally = Tally()
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

    # -- taking requests -------------------------------------------------------------------------------------------

    async def encode(self, prompt: str | list[int]) -> list[int]:
        """Token ids. Raises ApiError 400."""
        try:
            if isinstance(prompt, str) and len(prompt) > LONG_TEXT:
                return await asyncio.to_thread(self.engine.face.encode, prompt)
            return self.engine.face.encode(prompt)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error

    async def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation and the assistant's turn. Raises ApiError 400."""
        text, special = self.chat.prompt(messages)
        return await self.tokens(text, special)

    async def tokens(self, text: str, special: bool) -> list[int]:
        """special: with the tokens that the tokenizer puts around a text. Raises ApiError 400."""
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="prompt")
        encode = partial(tokenizer.encode, text, add_special_tokens=special)
        return list(await asyncio.to_thread(encode) if len(text) > LONG_TEXT else encode())

    def text(self, tokens: list[int]) -> str:
        """Raises ApiError 400 for ids that the model does not have."""
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="tokens")
        wrong = next((id for id in tokens if not 0 <= id < self.engine.vocab_size), None)
        if wrong is not None:
            raise ApiError(400, f"{wrong} is no token: ids go from 0 to {self.engine.vocab_size - 1}", param="tokens")
        return str(tokenizer.decode(tokens))

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
        metadata: dict[str, Any] | None = None,
        program: str = "",
        priority: int = 0,
        streams: bool = False,
    ) -> ServedJob:
        """A request to the engine, as the next choice of its group. Raises ApiError 400 or 503."""
        job = ServedJob(new_id(), client, kind, self.model, len(prompt), metadata or {})
        self._submit(job, prompt, params, group, program=program, priority=priority, streams=streams)
        return job

    def _submit(
        self,
        job: ServedJob,
        prompt: list[int],
        params: SamplingParams,
        group: Group | None,
        *,
        program: str = "",
        priority: int = 0,
        streams: bool = False,
        beyond_capacity: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        if self.outbox is None or self.outbox.loop is not loop:
            self.outbox = Outbox(loop)
        post = self.outbox.post
        choice = 0 if group is None else len(group.jobs)
        take = partial(self._heard, job, group, choice)

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
                program=program,
                priority=priority,
                timeout_s=None if job.durable else self.config.request_timeout or None,
                listener=every if streams else last,
                beyond_capacity=beyond_capacity,
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

    def _heard(self, job: ServedJob, group: Group | None, choice: int, piece: Piece) -> None:
        """On the event loop, in the order in which the engine spoke."""
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
        job.ended = time.time()
        job.state = END_STATES[output.finish_reason]
        job.error = output.error
        if output.finish_reason == "cancelled" and self.cut:
            job.error = DRAINED
        job.answer = answer_of(job, output)
        self.limits.book(job.client, len(output.token_ids))
        self.tally.ended(job, output)
        self.metrics.ended(output, handle)
        if self.alerts.limits:
            self.alert(self.tally.recent())
        if job.durable and not (self.cut and job.state == "cancelled"):
            self.store.end(job.id, job.state, {"answer": job.answer, "error": job.error}, job.ended)
        for forgotten in self.board.end(job):
            if forgotten.durable:
                self.store.remove(forgotten.id)
        return output

    def alert(self, values: dict[str, float]) -> None:
        """One warning for each threshold that is newly crossed."""
        for name, (value, limit) in self.alerts.crossed(values).items():
            log.warning("alert: %s is %.3g, above the threshold of %.3g", name, value, limit)

    # -- durable jobs ----------------------------------------------------------------------------------------------

    async def enqueue(
        self, prompt: list[int], params: SamplingParams, *, client: str, metadata: dict[str, Any], priority: int = 0
    ) -> ServedJob:
        """A job that is on disk when this returns. Raises ApiError 400 or 503, and then it is not."""
        job = ServedJob(new_id(), client, "job", self.model, len(prompt), metadata, durable=True)
        params = seeded(params)
        request = {"prompt": prompt, "params": stored(params), "metadata": metadata, "priority": priority}
        await self.store.add(job.id, client, job.created, request)
        try:
            self._submit(job, prompt, params, None, priority=priority)
        except ApiError:
            self.store.remove(job.id)
            raise
        return job

    def resume(self) -> int:
        """Jobs of an earlier run: who has ended still answers, who has not runs again. How many run again."""
        again = 0
        for row in self.store.rows(self.config.keep_jobs, self.config.keep_hours):
            again += self._restore(row)
        return again

    def _restore(self, row: Row) -> bool:
        request = row.request
        job = ServedJob(
            row.id, row.client, "job", self.model, len(request["prompt"]), request["metadata"], durable=True,
            created=row.created,
        )  # fmt: skip
        if row.ended is not None and row.answer is not None and row.state is not None:
            job.ended, job.state = row.ended, row.state
            job.answer, job.error = row.answer["answer"], row.answer["error"]
            self.board.add(job)
            return False
        try:
            params = SamplingParams(**request["params"])
            self._submit(job, request["prompt"], params, None, priority=request["priority"], beyond_capacity=True)
        except ApiError as error:  # another model is served now, and it can never fit
            job.ended, job.state, job.error = time.time(), "failed", error.message
            self.board.add(job)
            self.store.end(job.id, "failed", {"answer": None, "error": error.message}, job.ended)
            return False
        return True

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


def seeded(params: SamplingParams) -> SamplingParams:
    """The same with a seed, so that running it again gives the same tokens."""
    return params if params.seed is not None else replace(params, seed=secrets.randbits(63))


def stored(params: SamplingParams) -> dict[str, Any]:
    """As JSON can hold it; SamplingParams(**this) is equal."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(params).items()}
