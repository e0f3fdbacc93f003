"""Sending: a call to an upstream that the router chooses, and again to another one while no byte of an answer has come.

Sent again: what never reached the upstream (no connection), what was cut off before an answer (closed, reset, no HTTP,
a head that does not end), a redirect, a 502, a 503, and a 401 or 403 (it refuses the gateway's key). A 429 goes to
another upstream if there is one; else its client gets it, Retry-After and all. All other answers are the client's, 500
and 504 too: that request was run. Where nobody is left, those that failed are asked again after a pause (stamina).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import stamina
from starlette.responses import Response

from fastserve.gateway.asking import request_of
from fastserve.gateway.call import Call
from fastserve.gateway.choosing import Choosing
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.health import Health
from fastserve.gateway.jobs_of_calls import JobsOfCalls
from fastserve.gateway.upstream import Upstream
from fastserve.gateway.upstreams import Upstreams
from fastserve.gateway.wire import headers
from fastserve.gateway.wire.endings import Events, form_of, usage_tokens
from fastserve.gateway.wire.exchange import Exchange
from fastserve.gateway.wire.passed import CLIENT_LEFT, Passed
from fastserve.gateway.wire.watch import SlowError, Watch
from fastserve.http_client import ConnectError, HttpClientError
from fastserve.sched.job import Job
from fastserve.server.api.errors import ApiError, error_response
from fastserve.server.http.auth import spoken

log = logging.getLogger("fastserve.gateway")

WHOLE = 1 << 20
"""Bytes of an answer that is no stream, read before any of it is passed on: one that breaks off is then an error, and
not half an answer. A longer one is passed on as it comes.
"""

NONE_YET = "there is no upstream yet: give --upstream URL, or POST one to /gateway/upstreams"

AGAIN = (502, 503)
"""Statuses of an upstream that has not run the request."""

REFUSED = (401, 403)
"""Statuses of an upstream that does not know the gateway's key; a client could do nothing about it."""

PAUSES = {"wait_initial": 0.1, "wait_max": 2.0, "wait_jitter": 0.1}
"""Seconds between two tries where nobody else is left."""


Only: TypeAlias = "Callable[[Upstream], bool] | None"
"""Which upstreams may serve a request, of those with its model; None: all."""


class FailedError(Exception):
    """One upstream did not serve the request, which may be sent again. answer: what the client gets if that is all.

    rest: seconds for which it asked to be left alone (Retry-After). waits: asked again after a pause if nobody else is
    there; an upstream that says itself when to come back is not.
    """

    def __init__(
        self, upstream: Upstream, answer: Callable[[], Response], rest: float | None = None, waits: bool = True
    ) -> None:
        super().__init__(upstream.name)
        self.upstream = upstream
        self.answer = answer
        self.rest = rest
        self.waits = waits


class Sending:
    """ended(call, upstream, tokens, well): told of each call that has come to its end. first_byte(upstream, seconds):
    of the head of each answer.
    """

    def __init__(
        self,
        config: GatewayConfig,
        upstreams: Upstreams,
        health: Health,
        choosing: Choosing,
        jobs: JobsOfCalls,
        ended: Callable[[Call, Upstream, int, bool], None],
        first_byte: Callable[[Upstream, float], None],
    ) -> None:
        self.config = config
        self.upstreams = upstreams
        self.health = health
        self.choosing = choosing
        self.jobs = jobs
        self.ended = ended
        self.first_byte = first_byte
        self.watch = Watch(config.silence_timeout)

    async def __call__(self, call: Call, only: Only = None) -> Response:
        """The answer, as it begins. only: which upstreams may serve it. Raises ApiError."""
        job = self.jobs.of(call, self.choosing.now())
        tried: set[int] = set()
        try:
            return await self._once(call, job, tried, only)
        except FailedError as error:
            return await self._again(call, job, tried, only, error)

    async def _again(self, call: Call, job: Job, tried: set[int], only: Only, failed: FailedError) -> Response:
        """After the first try has failed."""

        def pause(error: Exception) -> bool | float:
            """Whether to go on after this failure; 0: at once, since somebody else is there."""
            if not isinstance(error, FailedError):
                return False
            if self._there(call, tried, only):
                return 0.0
            tried.clear()
            return error.waits

        try:
            async for attempt in stamina.retry_context(
                on=pause, attempts=self.config.max_retries + 1, timeout=None, **PAUSES
            ):
                with attempt:
                    if attempt.num == 1:
                        raise failed
                    failed.upstream.counts.retries += 1
                    try:
                        return await self._once(call, job, tried, only)
                    except FailedError as error:
                        failed = error
                        raise
                    except ApiError as error:
                        if error.status == 504:
                            raise
                        break  # nobody may be asked any more
        except FailedError:
            pass
        return failed.answer()

    def _there(self, call: Call, tried: set[int], only: Only) -> dict[int, Upstream]:
        """Who may get it now, by replica."""
        return {
            each.replica: each
            for each in self.upstreams.serving(call.model)
            if each.replica not in tried and (only is None or only(each))
        }

    async def _once(self, call: Call, job: Job, tried: set[int], only: Only) -> Response:
        """One try. Raises FailedError, or ApiError where there is nobody to ask."""
        there = self._there(call, tried, only)
        if not there:
            raise self.nobody(call, only)
        now = time.monotonic_ns()
        views = [each.view(now) for each in there.values()]
        upstream = list(there.values())[self.choosing.route(job, views)]  # whatever the router does to its views
        choice = self.choosing.noted(job, call.model, call.client, upstream, bool(tried))
        tried.add(upstream.replica)
        exchange = Exchange(upstream.connections)
        tokens = job.prompt + (job.guess or 0)
        upstream.outstanding += 1
        upstream.outstanding_tokens += tokens
        upstream.counts.requests += 1
        self.choosing.sent(job, upstream.replica)
        passed_on = False

        def over(error: HttpClientError | None, got: int, *, well: bool = True, last: bool = True) -> None:
            """The upstream has no more to do with it; once. last: nor has any other."""
            upstream.outstanding -= 1
            upstream.outstanding_tokens -= tokens
            if well and (error is None or error is CLIENT_LEFT):
                upstream.counts.tokens += got
                self.choosing.ended(job, upstream.replica, got)
                if error is None:
                    self.jobs.ended(call.model, got)
            else:
                choice.broken = error is not None
                upstream.counts.errors += 1
                self.choosing.failed(job, upstream.replica)
            if last:
                self.ended(call, upstream, got, well and error is None)

        try:
            answer = await self._exchange(call, upstream, exchange, over)
            passed_on = True
            return answer
        except ApiError:
            over(None, 0, well=False)
            passed_on = True
            raise
        except FailedError as error:
            choice.failed = True
            over(None, 0, well=False, last=False)
            passed_on = True
            self.health.failed(upstream, error.rest)
            raise
        finally:
            if not passed_on:  # the client has left, or something of ours broke
                exchange.abort(CLIENT_LEFT)
                over(CLIENT_LEFT, 0)

    async def _exchange(
        self, call: Call, upstream: Upstream, exchange: Exchange, over: Callable[..., None]
    ) -> Response:
        """There and, at least the head of the answer, back. Raises FailedError."""
        lines = headers.to_upstream(call.headers.raw) + f"x-request-id: {call.request_id}\r\n".encode("latin-1")
        if call.authenticated and upstream.kind == "fastserve" and upstream.key is not None:
            lines += spoken(call.client)
        where = f"{call.path}?{call.query}" if call.query else call.path
        body = None if call.method == "GET" else call.body
        request = request_of(call.method, upstream, where, lines, body)
        began = time.monotonic_ns()
        if self.config.request_timeout:
            left = self.config.request_timeout - (began - call.arrival) / 1e9
        else:
            left = 1e9
        try:
            await exchange.begin(request, min(self.config.connect_timeout, max(0.05, left)))
            self.watch.add(exchange, asyncio.get_running_loop().time() + left)
            await exchange.head()
        except SlowError as error:
            if exchange.status == 0 and exchange.head_s:
                raise self._failed(call, upstream, f"{error}") from None
            raise ApiError(504, f"upstream {upstream.name}: {error}") from None
        except (HttpClientError, ConnectError) as error:
            raise self._failed(call, upstream, f"{error}") from None
        seconds = (time.monotonic_ns() - began) / 1e9
        upstream.counts.first_byte_s += seconds
        self.first_byte(upstream, seconds)
        status = exchange.status
        if status in REFUSED or 300 <= status < 400 or status in AGAIN or status == 429:
            raise await self._refused(call, upstream, exchange)
        self.health.served(upstream)
        found = headers.to_client(exchange.headers)
        found.append((b"x-upstream", upstream.name.encode("latin-1")))
        kind = headers.value_of(found, b"content-type") or b""
        if kind.startswith(b"text/event-stream") and status == 200:
            events = Events(form_of(call.path), call.request_id)

            def streamed(error: HttpClientError | None) -> None:
                self._broke_off(upstream, error)
                over(error, events.tokens)

            return Passed(exchange, found, events, b"", upstream.name, streamed)
        return await self._plain(call, upstream, exchange, found, over)

    async def _plain(
        self, call: Call, upstream: Upstream, exchange: Exchange, found: headers.Headers, over: Callable[..., None]
    ) -> Response:
        """An answer that is no stream of events: whole where it is not too long."""
        body = bytearray()
        try:
            while len(body) <= WHOLE:
                part = await exchange.take()
                if part is None:
                    over(None, usage_tokens(bytes(body[-4096:])) or 0, well=exchange.status < 500)
                    return with_headers(bytes(body), exchange.status, found)
                body += part
        except HttpClientError as error:
            over(error, 0)
            self.health.failed(upstream)
            status = 504 if isinstance(error, SlowError) else 502
            return error_response(
                call.path,
                ApiError(status, f"upstream {upstream.name} broke off in the middle of its answer: {error}"),
            )

        def passed(error: HttpClientError | None) -> None:
            self._broke_off(upstream, error)
            over(error, 0)

        return Passed(exchange, found, None, bytes(body), upstream.name, passed)

    def _broke_off(self, upstream: Upstream, error: HttpClientError | None) -> None:
        """Of an answer under way. Many that an upstream's end breaks off together are one failure."""
        if error is None or error is CLIENT_LEFT or isinstance(error, SlowError):
            return
        if time.monotonic_ns() >= upstream.rests_until:
            self.health.failed(upstream)

    async def _refused(self, call: Call, upstream: Upstream, exchange: Exchange) -> FailedError:
        """Of an answer that says that the request was not run."""
        status, raw = exchange.status, exchange.headers
        body = bytearray()
        try:
            async with asyncio.timeout(5):
                while (part := await exchange.take()) is not None:
                    body += part
                    if len(body) > WHOLE // 16:
                        break
        except (HttpClientError, TimeoutError):
            pass
        exchange.abort(CLIENT_LEFT)
        if status in REFUSED:
            log.error(
                "upstream %s refuses the gateway's key (status %d): see --upstream key_env", upstream.name, status
            )
            return self._failed(call, upstream, f"it refuses this gateway (status {status})")
        if status < 400:
            return self._failed(call, upstream, f"it redirects (status {status}): its final address has to be given")
        rest = seconds_of(headers.value_of(raw, b"retry-after"))
        answer = partial(with_headers, bytes(body), status, headers.to_client(raw))
        log.info("request %s: upstream %s: status %d", call.request_id, upstream.name, status)
        return FailedError(upstream, answer, rest, waits=rest is None and status != 429)

    def _failed(self, call: Call, upstream: Upstream, why: str) -> FailedError:
        log.warning("request %s: upstream %s: %s", call.request_id, upstream.name, why)
        error = ApiError(502, f"upstream {upstream.name}: {why}", retry_after=1)
        return FailedError(upstream, partial(error_response, call.path, error))

    def nobody(self, call: Call, only: Only = None) -> ApiError:
        """Why nobody may be asked."""
        having = [each for each in self.upstreams.having(call.model) if only is None or only(each)]
        if not having and not call.model:
            return ApiError(503, NONE_YET)
        if not having:
            known = ", ".join(sorted(self.upstreams.models())[:50]) or "none"
            return ApiError(404, f"the model {call.model!r} is not served here; there is {known}", param="model")
        states = ", ".join(f"{each.name} {each.state}" for each in having[:8])
        what = f"no upstream with the model {call.model!r} takes requests now ({states})"
        return ApiError(503, what, retry_after=self.config.health_interval)


def seconds_of(value: bytes | None) -> float | None:
    """Of a Retry-After; None for none, and for a date."""
    text = (value or b"").strip()
    return float(text) if text.isdigit() and len(text) < 9 else None


def with_headers(body: bytes, status: int, found: headers.Headers) -> Response:
    """A whole answer."""
    answer = Response(body, status)
    answer.raw_headers = [pair for pair in found if pair[0] != b"content-length"]
    answer.raw_headers.append((b"content-length", b"%d" % len(body)))
    return answer
