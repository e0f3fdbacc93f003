"""Inbox: thread-safe queue of arrivals, cancels and queries for the engine's thread, in the order of both drivers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heapify, heappop, heappush
from typing import Any

from fastserve.engine.clock import Clock
from fastserve.engine.request import Request
from fastserve.metrics.finish import GAVE_UP
from fastserve.sched.job import NEVER

Ask = Callable[[], Any]

MAX_STALE = 1000
"""Cancels of ended requests are purged when there are so many cancels, or twice those still needed."""


class Inbox:
    """Any thread of the process that made it may put; the engine's thread takes, between iterations."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.closed = False
        self._arrivals: list[tuple[int, int, Request]] = []  # (arrival, id): a heap
        self._cancels: list[tuple[int, int, int, Request, str]] = []  # (at, arrival, id): a heap
        self._room = MAX_STALE  # of the cancels, before stale ones are purged
        self._over: list[str] = []  # programs of which nothing more will come
        self._asks: list[tuple[Ask, Future[Any], bool]] = []  # the last: before the inbox is drained
        self._process = os.getpid()
        self._owner = 0

    def put(self, request: Request) -> None:
        """Schedules a request for its arrival time. RuntimeError when closed, or in a fork of the process."""
        self.check_process()
        with self.condition:
            if self.closed:
                raise RuntimeError("the engine is closed and takes no more requests")
            heappush(self._arrivals, (request.job.arrival, request.job.id, request))
            self.condition.notify()

    def cancel(self, request: Request, reason: str, at: int = -NEVER) -> None:
        """Schedules a cancel for this time; no effect on a request that has ended by then, nor, of a client that gives
        up, on one that has had a token by then.

        ValueError without a reason. RuntimeError in a fork of the process.
        """
        self.check_process()
        if not reason:
            raise ValueError("a cancel needs a reason: it becomes the finish reason")
        with self.condition:
            if len(self._cancels) >= self._room:  # timeouts far beyond their request's end
                self._cancels = [entry for entry in self._cancels if not _stale(entry)]
                heapify(self._cancels)
                self._room = max(MAX_STALE, 2 * len(self._cancels))
            heappush(self._cancels, (at, request.job.arrival, request.job.id, request, reason))
            self.condition.notify()

    def end_program(self, program: str) -> None:
        """Nothing more of it will come. RuntimeError in a fork of the process."""
        self.check_process()
        with self.condition:
            self._over.append(program)
            self.condition.notify()

    def ask(self, question: Ask, *, first: bool = False) -> Future[Any]:
        """Runs a query on the engine's thread between two iterations; at once when called on that thread.

        first: before what has been put since is submitted, else after. Cancelled when closed. RuntimeError in a fork of
        the process.
        """
        self.check_process()
        future: Future[Any] = Future()
        if threading.get_ident() == self._owner:
            _answer(question, future)
            return future
        with self.condition:
            if self.closed:
                future.cancel()
            else:
                self._asks.append((question, future, first))
                self.condition.notify()
        return future

    @property
    def forked(self) -> bool:
        """Whether this is a fork of the process that made it: the engine's thread does not exist here."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """RuntimeError in a fork of the process."""
        if self.forked:
            raise RuntimeError(f"the engine was made in process {self._process} and its thread did not come along into "
                               f"process {os.getpid()}: make the engine after the fork")  # fmt: skip

    def close(self) -> None:
        with self.condition:
            self.closed = True
            for _, future, _ in self._asks:
                future.cancel()
            self._asks.clear()
            self.condition.notify()

    # -- for the engine's thread -----------------------------------------------------------------------------------

    def owned(self) -> None:
        """Declares the calling thread to be the engine's."""
        self._owner = threading.get_ident()

    def answer(self, *, first: bool = False) -> None:
        """Runs the pending queries. first: only those that precede the rest of the inbox."""
        with self.condition:
            asks = [ask for ask in self._asks if ask[2] or not first]
            self._asks = [ask for ask in self._asks if first and not ask[2]]
        for question, future, _ in asks:
            _answer(question, future)

    @property
    def empty(self) -> bool:
        """Without the lock: anything put meanwhile is found at the next iteration boundary."""
        return not (self._arrivals or self._cancels or self._over or self._asks)

    def next(self) -> int:
        """ns: when the next arrival or cancel that matters is due; NEVER if there is none."""
        with self.condition:
            return self._next()

    def _next(self) -> int:
        while self._cancels and _stale(self._cancels[0]):
            heappop(self._cancels)
        at = self._arrivals[0][0] if self._arrivals else NEVER
        return min(at, self._cancels[0][0]) if self._cancels else at

    def arrived(self, now: int) -> list[Request]:
        """Removes and returns the requests that have arrived by now, by (arrival, id)."""
        came = []
        with self.condition:
            while self._arrivals and self._arrivals[0][0] <= now:
                came.append(heappop(self._arrivals)[2])
        return came

    def cancelled(self, now: int) -> list[tuple[Request, str]]:
        """Removes and returns due cancels of live requests, by (arrival, id); the first reason counts."""
        due: dict[Request, str] = {}
        with self.condition:
            while self._cancels and (self._cancels[0][0] <= now or _stale(self._cancels[0])):
                entry = heappop(self._cancels)
                if not _stale(entry):
                    due.setdefault(entry[3], entry[4])
        return sorted(due.items(), key=lambda item: (item[0].job.arrival, item[0].job.id))

    def over(self) -> list[str]:
        """Removes and returns the programs that have been told to be over, in this order."""
        with self.condition:
            over, self._over = self._over, []
        return over

    def waiting(self) -> list[Request]:
        """Removes and returns all requests that have not arrived, by (arrival, id)."""
        return self.arrived(NEVER)

    def rest(self, clock: Clock, until: int) -> None:
        """Blocks until something is due, or until `until`, or until closed."""
        with self.condition:
            while not (self.closed or self._over or self._asks):
                at = min(until, self._next())
                if at <= clock.now():
                    return
                clock.wait(self.condition, at)


def _stale(entry: tuple[int, int, int, Request, str]) -> bool:
    """Whether this cancel does nothing any more."""
    at, _, _, request, reason = entry
    return bool(request.finish_reason) or (reason == GAVE_UP and request.answered_by(at))


def _answer(question: Ask, future: Future[Any]) -> None:
    try:
        future.set_result(question())
    except Exception as error:
        future.set_exception(error)
