"""The inbox: everything that other threads want of the engine's thread, in the order in which both drivers take it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heappop, heappush
from typing import Any

from fastserve.engine.clock import Clock
from fastserve.engine.request import Request
from fastserve.sched.job import NEVER

Ask = Callable[[], Any]


class Inbox:
    """Any thread puts; the engine's thread takes, between iterations."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.closed = False
        self._arrivals: list[tuple[int, int, Request]] = []  # (arrival, id): a heap
        self._cancels: list[tuple[int, int, int, Request, str]] = []  # (at, arrival, id): a heap
        self._asks: list[tuple[Ask, Future[Any]]] = []

    def put(self, request: Request) -> None:
        """To be submitted once its arrival has come. RuntimeError when closed."""
        with self.condition:
            if self.closed:
                raise RuntimeError("the engine is closed and takes no more requests")
            heappush(self._arrivals, (request.job.arrival, request.job.id, request))
            self.condition.notify()

    def cancel(self, request: Request, reason: str, at: int = -NEVER) -> None:
        """To be cancelled once this time has come; a request that has ended by then is left alone."""
        with self.condition:
            heappush(self._cancels, (at, request.job.arrival, request.job.id, request, reason))
            self.condition.notify()

    def ask(self, question: Ask) -> Future[Any]:
        """To be answered by the engine's thread between two iterations. Cancelled when closed."""
        future: Future[Any] = Future()
        with self.condition:
            if self.closed:
                future.cancel()
            else:
                self._asks.append((question, future))
                self.condition.notify()
        return future

    def close(self) -> None:
        with self.condition:
            self.closed = True
            for _, future in self._asks:
                future.cancel()
            self._asks.clear()
            self.condition.notify()

    # -- for the engine's thread -----------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Without the lock: what is put meanwhile is found at the next boundary."""
        return not (self._arrivals or self._cancels or self._asks)

    def next(self) -> int:
        """ns: when the next arrival or cancel that matters is due; NEVER if there is none."""
        with self.condition:
            return self._next()

    def _next(self) -> int:
        while self._cancels and self._cancels[0][3].finish_reason:
            heappop(self._cancels)
        at = self._arrivals[0][0] if self._arrivals else NEVER
        return min(at, self._cancels[0][0]) if self._cancels else at

    def arrived(self, now: int) -> list[Request]:
        """Takes out who has come by now, by (arrival, id)."""
        came = []
        with self.condition:
            while self._arrivals and self._arrivals[0][0] <= now:
                came.append(heappop(self._arrivals)[2])
        return came

    def cancelled(self, now: int) -> list[tuple[Request, str]]:
        """Takes out the cancels that are due and still matter, by (arrival, id); the first reason counts."""
        due: dict[Request, str] = {}
        with self.condition:
            while self._cancels and (self._cancels[0][0] <= now or self._cancels[0][3].finish_reason):
                _, _, _, request, reason = heappop(self._cancels)
                if not request.finish_reason:
                    due.setdefault(request, reason)
        return sorted(due.items(), key=lambda item: (item[0].job.arrival, item[0].job.id))

    def asked(self) -> list[tuple[Ask, Future[Any]]]:
        with self.condition:
            asks = self._asks
            self._asks = []
        return asks

    def waiting(self) -> list[Request]:
        """Takes out all who have not arrived, by (arrival, id)."""
        return self.arrived(NEVER)

    def rest(self, clock: Clock, until: int) -> None:
        """Until something is due, the time has come, or it is closed."""
        with self.condition:
            while not (self.closed or self._asks):
                at = min(until, self._next())
                if at <= clock.now():
                    return
                clock.wait(self.condition, at)
