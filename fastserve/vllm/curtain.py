"""Curtain: vLLM's queue of waiting requests, where only those whom a plan has called are shown to vLLM's scheduler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any


class Curtain:
    """Has the methods of vLLM's RequestQueue. `len` and iteration tell of everybody: whether the engine has work, its
    metrics and what it aborts go by that. Truth, peek and pop, which admission goes by, tell of those called alone.
    """

    def __init__(self) -> None:
        self.called: deque[Any] = deque()
        self.behind: dict[Any, None] = {}
        self.drawn = True  # False: vLLM's own order from here on, see open()

    # -- what the driver does --------------------------------------------------------------------------------------

    def call(self, request: Any) -> None:
        """One that is not behind the curtain is left alone."""
        if request in self.behind:
            del self.behind[request]
            self.called.append(request)

    def recall(self) -> None:
        """Those called that vLLM has not started go back."""
        if self.called:
            self.behind.update(dict.fromkeys(self.called))
            self.called.clear()

    def open(self) -> None:
        """Nobody decides any more but vLLM: all are shown, by arrival."""
        everybody = sorted(self, key=lambda request: request.arrival_time)
        self.called = deque(everybody)
        self.behind.clear()
        self.drawn = False

    # -- what vLLM does --------------------------------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        if self.drawn:
            self.behind[request] = None
        else:
            self.called.append(request)

    def prepend_request(self, request: Any) -> None:
        """It has been preempted."""
        if self.drawn:
            self.behind[request] = None
        else:
            self.called.appendleft(request)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """They were called and cannot start yet."""
        self.called.extendleft(requests)

    def peek_request(self) -> Any:
        return self.called[0]

    def pop_request(self) -> Any:
        return self.called.popleft()

    def remove_request(self, request: Any) -> None:
        self.remove_requests((request,))

    def remove_requests(self, requests: Iterable[Any]) -> None:
        gone = set(requests)
        if self.called:
            self.called = deque([request for request in self.called if request not in gone])
        for request in gone:
            self.behind.pop(request, None)

    def __bool__(self) -> bool:
        return bool(self.called)

    def __len__(self) -> int:
        return len(self.called) + len(self.behind)

    def __iter__(self) -> Iterator[Any]:
        return chain(self.called, self.behind)
