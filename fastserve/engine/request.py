"""Request: one request and its output so far, in the engine. Handle: its client side. Piece, Output: results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastserve.engine.adapters import Adapter
from fastserve.engine.constraints import complete, ended
from fastserve.engine.params import SamplingParams
from fastserve.sched.job import Job
from fastserve.sched.units import Ids

Listener = Callable[["Piece"], object]


@dataclass(slots=True, eq=False)
class Piece:
    """One token of an output. Times in ns of the engine's clock.

    token_id is None in a last piece without a token: the request was cancelled or failed. text may be empty while an
    incomplete character, or a possible prefix of a stop string, is held back.
    """

    token_id: int | None
    text: str
    index: int  # of the token in the output, from 0
    finish_reason: str = ""  # only in the last: one of loop.FINISHES, or the reason of a cancel
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    at_ns: int = 0  # when it was handed out; filled by the loop


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a request. record: its row of metrics.records.COLUMNS, empty if it was never submitted."""

    id: int
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str | None  # None without a tokenizer
    finish_reason: str
    logprobs: list[dict[int, float]] | None
    seed: int
    error: str | None
    record: Mapping[str, Any] = field(repr=False)
    by_step: bool = field(default=False, repr=False)  # failed because its whole step failed
    counted: tuple[int, int] | None = field(default=None, repr=False)
    """Tokens of prompt and output as an upstream counted them, where those here are estimates; None: it did not say."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of its prompt that were found in the prefix cache when it first joined."""
        return int(self.record.get("cached_tokens", 0))

    @property
    def held_s(self) -> float:
        """Seconds for which its policy held it back from admission."""
        return float(self.record.get("held_s", 0.0))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a driver says of a request that it takes from a trace, and a client does not."""

    id: int
    """Its number, on an engine where all requests have such: each once."""
    units: tuple[Ids, Ids] | None = None
    """Names of the units of its prompt, and of those that prompt and answer fill beyond, on a modelled body; by default
    the tokens say it."""
    gives_up: int | None = None
    """ns of the engine's clock: its client is gone if it has no token by then"""
    late: bool = False
    """one that can never fit is refused when it arrives, as a server does, and not when it is submitted"""


class IncrementalDetokenizer(Protocol):
    """Incremental detokenization, as of detokenizer.Detokenizer."""

    @property
    def stopped(self) -> bool: ...  # a stop string is complete; the text ends with it
    def add(self, token: int) -> str: ...
    def flush(self) -> str: ...  # the text held back


class Request:
    """params: resolved. seed: the params' own, or the one drawn at submission.

    Written by the engine's thread; clients read it through their Handle.
    """

    __slots__ = (
        "adapter", "answer", "at_end", "by_step", "calls", "counted", "detokenizer", "ended", "error", "finish_reason",
        "job", "listener", "logprobs", "named", "params", "pieces", "prompt", "record", "root", "seed", "signal",
        "texts", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        prompt: list[int],
        params: SamplingParams,
        seed: int,
        detokenizer: IncrementalDetokenizer | None,
        listener: Listener | None = None,
        at_end: Callable[[Request], object] | None = None,
        root: bytes = b"",
        calls: str = "",
        answer: Ids | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.job = job
        self.prompt = prompt
        self.params = params
        self.seed = seed
        self.detokenizer = detokenizer  # None without a tokenizer
        self.listener = listener
        self.at_end = at_end  # called once, after the last piece
        self.root = root  # where the names of its units begin: see UnitNames.root()
        self.answer: Ids = answer or ()  # of the units that prompt and output fill beyond the prompt's
        self.named = answer is not None  # else its tokens say what they are, once it has ended
        self.adapter = adapter  # that its model has for it; None: the base alone
        self.calls = calls  # the tool that its output will call, as its client knows beforehand
        self.counted: tuple[int, int] | None = None  # tokens of prompt and output, by a body whose own are estimates
        self.tokens: list[int] = []
        self.texts: list[str] = []
        self.logprobs: list[dict[int, float]] | None = None if params.logprobs is None else []
        self.finish_reason = ""
        self.error: str | None = None
        self.by_step = False  # it failed because its step failed; the cause may be another request or the device
        self.record: Mapping[str, Any] = {}
        self.pieces: list[Piece] = []
        self.signal = threading.Condition()  # for iterators
        self.ended = threading.Event()  # for waiters on the end, without a wake-up per token

    # -- called by the output processor ----------------------------------------------------------------------------

    def accept(
        self,
        token: int,
        eos: frozenset[int],
        logprob: float | None = None,
        top: dict[int, float] | None = None,
    ) -> Piece:
        """Appends the next token. The piece has a finish_reason if the request ends with it."""
        params = self.params
        self.tokens.append(token)
        count = len(self.tokens)
        choices = params.choice_token_ids
        closing = False  # ended by the token id, not by its text
        if count >= params.min_tokens:
            closing = token in params.stop_token_ids
            if choices:
                closing = closing or ended(self.tokens, choices, eos)
            elif token in eos and not params.ignore_eos and params.stop_after is None:
                closing = True
        text = ""
        detokenizer = self.detokenizer
        if detokenizer is not None and (not closing or params.include_stop):
            text = detokenizer.add(token)
        whole = count == params.stop_after or bool(choices and complete(self.tokens, choices))
        if closing or whole or (detokenizer is not None and detokenizer.stopped):
            self.finish_reason = "stop"
        elif count >= self.job.limit:
            self.finish_reason = "length"
        if self.finish_reason and detokenizer is not None:
            text += detokenizer.flush()
        if self.logprobs is not None and logprob is not None:
            self.logprobs.append({token: logprob} | (top or {}))
        self.texts.append(text)
        return Piece(token, text, count - 1, self.finish_reason, logprob, top)

    def end(self, reason: str, error: str | None = None) -> Piece:
        """Ends the request for a reason other than its tokens."""
        self.finish_reason = reason
        self.error = error
        try:
            text = "" if self.detokenizer is None else self.detokenizer.flush()
        except Exception:  # a tokenizer that has failed may fail again
            text = ""
        self.texts.append(text)
        return Piece(None, text, len(self.tokens), reason)

    # -- called by the loop ----------------------------------------------------------------------------------------

    def hand_out(self, piece: Piece) -> None:
        """Delivers a piece to the listener and to iterators. Raises as the listener does, which is then removed."""
        try:
            if self.listener is not None:
                self.listener(piece)
        except BaseException:
            self.listener = None
            raise
        finally:
            if piece.finish_reason and self.at_end is not None:
                self.at_end(self)
            with self.signal:
                self.pieces.append(piece)
                self.signal.notify_all()
            if piece.finish_reason:
                self.ended.set()

    def answered_by(self, at: int) -> bool:
        """Whether its first token had been handed out by then, ns."""
        return bool(self.pieces) and self.pieces[0].token_id is not None and self.pieces[0].at_ns <= at

    @property
    def over(self) -> bool:
        """The last piece has been handed out."""
        return bool(self.pieces) and self.pieces[-1].finish_reason != ""


class Handle:
    """Iterate over it for pieces as they are produced; every iteration starts with the first one."""

    __slots__ = ("_cancel", "_request")

    def __init__(self, request: Request, cancel: Callable[[Request, str], None]) -> None:
        self._request = request
        self._cancel = cancel

    @property
    def id(self) -> int:
        return self._request.job.id

    @property
    def seed(self) -> int:
        return self._request.seed

    @property
    def prompt_tokens(self) -> int:
        return len(self._request.prompt)

    @property
    def state(self) -> str:
        """queued, running, preempted, finished, cancelled or failed."""
        request = self._request
        if request.over:
            return {"cancelled": "cancelled", "timeout": "cancelled", "error": "failed"}.get(
                request.finish_reason, "finished"
            )
        return state_of(request.job)

    @property
    def done(self) -> bool:
        return self._request.over

    def cancel(self, reason: str = "cancelled") -> None:
        """Ends it with this finish_reason after the current iteration; no effect on an ended request."""
        self._cancel(self._request, reason)

    def __iter__(self) -> Iterator[Piece]:
        request = self._request
        index = 0
        while True:
            with request.signal:
                while index == len(request.pieces):
                    request.signal.wait()
                piece = request.pieces[index]
            index += 1
            yield piece
            if piece.finish_reason:
                return

    def result(self, timeout: float | None = None) -> Output:
        """Waits for the end. timeout: s, after which TimeoutError."""
        request = self._request
        if not request.ended.wait(timeout):
            raise TimeoutError(f"request {self.id} is {self.state} after {timeout} s, with "
                                   f"{len(request.tokens)} tokens")  # fmt: skip
        return Output(
            id=self.id,
            prompt_token_ids=list(request.prompt),
            token_ids=list(request.tokens),
            text=None if request.detokenizer is None else "".join(request.texts),
            finish_reason=request.finish_reason,
            logprobs=request.logprobs,
            seed=request.seed,
            error=request.error,
            record=request.record,
            by_step=request.by_step,
            counted=request.counted,
        )


def state_of(job: Job) -> str:
    """queued, running or preempted; of a live job."""
    if job.running:
        return "running"
    return "preempted" if job.preemptions else "queued"
