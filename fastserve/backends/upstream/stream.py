"""Stream: one streamed completion on a thread of its own, begun again where it breaks, until it is over or closed.

Answer is what has come of a job so far; its streams write it and the engine's thread reads it, both under one lock.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from time import monotonic
from typing import Final, NamedTuple

from fastserve.backends.upstream.api import Api, Ask, Over, Said
from fastserve.backends.upstream.connection import AGAIN, Address, BrokenError, Connection, UpstreamError
from fastserve.backends.upstream.connection import said as words_of
from fastserve.backends.upstream.pieces import EMPTY
from fastserve.backends.upstream.prompt import Prompt
from fastserve.backends.upstream.tokenizer import UpstreamTokenizer
from fastserve.engine.params import SamplingParams

log = logging.getLogger("fastserve")

BREAKS: Final = 5
"""Times in a row that a stream may break without a new token: the next may be broken by the request itself."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Seconds before it is asked again; doubled each time, and each somewhere between the half and the whole of it."""

AHEAD: Final = 4096
"""Tokens that may have come and not been handed out; a stream that has more is not read on."""

STRANGE: Final = 4096
"""Bytes that are kept of what is no stream."""

SSE: Final = (b"data:", b"event:", b":", b"id:", b"retry:")
"""Beginnings of lines of a stream of events."""

COUNT_S: Final = 0.2
"""Seconds for which the last token is kept back until the upstream has said how many tokens there were."""


class Ended(NamedTuple):
    """How an answer ended. reason: stop, length or error. error: its words. prompt, output: tokens that the upstream
    counted, of its last stream.
    """

    reason: str
    error: str = ""
    prompt: int | None = None
    output: int | None = None


class Answer:
    """What has come of a job, over all of its streams. Under Hub.changed, but for what never changes.

    waiting: ids that came and were not handed out. tokens: how many came. ids: the upstream's own, of all of them; None
    once some were not told. base: tokens that the present stream was asked to go on with. kept: the last one, kept back
    since then; it counts among the tokens.
    """

    __slots__ = (
        "base", "ended", "ids", "kept", "limit", "params", "prompt", "prompt_tokens", "seed", "stream", "texts",
        "tokens", "waiting",
    )  # fmt: skip

    def __init__(self, prompt: Prompt, params: SamplingParams, seed: int, limit: int) -> None:
        self.prompt = prompt
        self.params = params
        self.seed = seed
        self.limit = limit
        self.waiting: deque[int] = deque()
        self.tokens = 0
        self.texts: list[str] = []
        self.ids: list[int] | None = []
        self.base = 0
        self.prompt_tokens: int | None = None  # counted by the upstream
        self.ended: Ended | None = None
        self.kept: tuple[int, float] | None = None
        self.stream: Stream | None = None

    @property
    def full(self) -> bool:
        """It has as many tokens as it may have."""
        return self.tokens >= self.limit

    def let_go(self, ended: Ended | None = None) -> None:
        """The last token is kept no longer. ended: how it ended (None: by length, as far as is known)."""
        if self.kept is not None:
            self.waiting.append(self.kept[0])
            self.kept = None
        if self.ended is None:
            self.ended = ended or Ended("length", "", self.prompt_tokens, self.tokens)

    def ask(self) -> Ask:
        """For what is still to come. Tokens to come are drawn otherwise than those before: another seed."""
        ids = None if self.ids is None else list(self.ids)
        return Ask(
            self.prompt, self.params, self.seed + self.tokens, self.limit - self.tokens, "".join(self.texts), ids
        )


class Hub:
    """What all streams of one body share. changed: notified with each token and each end."""

    def __init__(
        self, address: Address, api: Api, tokenizer: UpstreamTokenizer, silence_s: float, gone_s: float
    ) -> None:
        self.address = address
        self.api = api
        self.tokenizer = tokenizer
        self.silence_s = silence_s
        self.gone_s = gone_s
        self.changed = threading.Condition()
        self.streams: set[Stream] = set()  # whose threads have not ended
        self.gone = False  # the last one that asked was not answered
        self.counters = {"streams": 0, "reconnects": 0, "upstream_errors": 0}

    def open(self, answer: Answer) -> None:
        with self.changed:
            stream = answer.stream = Stream(self, answer)
            self.streams.add(stream)
            self.counters["streams"] += 1
        try:
            stream.thread.start()
        except RuntimeError as error:  # the system has no more threads
            with self.changed:
                self.streams.discard(stream)
                answer.let_go(Ended("error", f"no thread for its stream: {error}"))

    def heard(self, error: Exception | None) -> None:
        """Of the upstream: something, or that it is gone. An outage is logged once, and its end."""
        with self.changed:
            if self.gone is (error is not None):
                return
            self.gone = error is not None
        if error is not None:
            log.warning("upstream %s does not answer and is asked again: %s", self.address.url, error)
        else:
            log.info("upstream %s answers again", self.address.url)

    def close(self, answer: Answer) -> None:
        """Its tokens so far stay. The connection is cut at once; its thread ends by itself."""
        with self.changed:
            if answer.full:
                answer.let_go()
            stream, answer.stream = answer.stream, None
            if stream is not None:
                stream.closes.set()
                self.changed.notify_all()
        if stream is not None:
            stream.stop()


class Stream:
    """closes: set once nobody wants it any more; what it still reads is dropped."""

    def __init__(self, hub: Hub, answer: Answer) -> None:
        self.hub = hub
        self.answer = answer
        self.closes = threading.Event()
        self.thread = threading.Thread(target=self._run, name="fastserve upstream", daemon=True)
        self._connection: Connection | None = None
        self._half = ""  # the first of two surrogates, which the next event has the second one of

    def stop(self) -> None:
        self.closes.set()
        connection = self._connection
        if connection is not None:
            connection.cut()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # a fault of ours: the request must end, and the others go on
            self._end(Ended("error", f"{type(error).__name__}: {error}"))
        finally:
            with self.hub.changed:
                self.hub.streams.discard(self)
                self.hub.changed.notify_all()

    def _follow(self) -> None:
        hub, answer = self.hub, self.answer
        gone_since: float | None = None
        breaks = pauses = 0
        had = answer.tokens
        while not self.closes.is_set():
            error: Exception
            try:
                self._read()
                return
            except BrokenError as broken:
                error = broken
                counts = broken.sent
            except UpstreamError as refused:
                if refused.status not in AGAIN:
                    hub.counters["upstream_errors"] += 1
                    self._end(Ended("error", hub.address.hidden(f"upstream: {refused}")))
                    return
                error, counts = refused, False
            if self.closes.is_set():
                return
            if answer.full:
                self._end(Ended("length", "", answer.prompt_tokens, answer.tokens))
                return
            if answer.tokens > had:
                had, breaks, pauses, gone_since = answer.tokens, 0, 0, None
            breaks += counts
            now = monotonic()
            gone_since = now if gone_since is None else gone_since
            if breaks >= BREAKS or now - gone_since > hub.gone_s:
                what = f"broke {breaks} times in a row" if breaks >= BREAKS else f"was gone for {hub.gone_s:.0f} s"
                hub.counters["upstream_errors"] += 1
                self._end(Ended("error", f"the upstream {what}: {error}"))
                return
            hub.counters["reconnects"] += 1
            hub.heard(error)
            self.closes.wait(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**pauses) * random.uniform(0.5, 1.0))
            pauses += 1

    def _read(self) -> None:
        """One completion. Returns when the answer has ended; raises BrokenError where it was not told that it has."""
        hub, answer = self.hub, self.answer
        connection = self._connection = Connection(hub.address, hub.silence_s)
        if self.closes.is_set():
            return
        with hub.changed:
            ask = answer.ask()
            answer.base = answer.tokens
        hub.api.prepare(connection, ask)
        path, body = hub.api.request(ask)
        reader = hub.api.reader(ask)
        self._half = ""
        over: Over | None = None
        strange: bytes | None = b""  # what came before anything was understood
        heard = monotonic()
        for line in connection.lines(path, body):
            if hub.gone:
                hub.heard(None)
            events = reader.read(line)
            if strange is not None:
                strange = None if events else strange + line if len(strange) < STRANGE else strange
            for found in events:
                heard = monotonic()
                if isinstance(found, Over):
                    over = Over(found.reason or (over.reason if over else ""),
                                found.prompt if found.prompt is not None else over and over.prompt,
                                found.output if found.output is not None else over and over.output)  # fmt: skip
                elif not self._take(found):
                    return
            if self.closes.is_set():
                return
            if monotonic() - heard > hub.silence_s:
                raise BrokenError(f"{hub.address.url} said nothing new for {hub.silence_s:.0f} s", sent=True)
        if self.closes.is_set():
            return
        if strange and strange.strip() and not strange.lstrip().startswith(SSE):
            raise UpstreamError(f"it answered with what is no stream: {words_of(strange.decode(errors='replace'))}")
        if over is None or not over.reason:
            raise BrokenError(f"{hub.address.url} ended its stream in the middle", sent=True)
        self._over(over)

    def _take(self, said: Said) -> bool:
        """Whether to read on."""
        hub, answer = self.hub, self.answer
        said = said._replace(text=self._whole(said.text))
        ids = self._ids(said)
        with hub.changed:
            if self.closes.is_set() or answer.ended is not None:
                return False
            left = answer.limit - answer.tokens
            if left <= 0:  # more than was asked for
                answer.let_go()
                hub.changed.notify_all()
                return False
            ids = ids[:left]
            answer.texts.append(said.text)
            if said.ids is None or answer.ids is None:
                answer.ids = None
            else:
                answer.ids += said.ids
            if said.prompt is not None and not answer.base:
                answer.prompt_tokens = said.prompt
            if said.prompt_ids and not answer.base:
                answer.prompt_tokens = len(said.prompt_ids)
                if not answer.prompt.messages or answer.prompt.parts:
                    answer.prompt.parts = [list(said.prompt_ids)]
            answer.tokens += len(ids)
            if answer.full and answer.prompt_tokens is None:
                answer.kept = ids.pop(), monotonic()  # the count may come with the next line
            answer.waiting.extend(ids)
            if answer.full and answer.kept is None:
                answer.let_go()
            hub.changed.notify_all()
            while len(answer.waiting) > AHEAD and not self.closes.is_set():
                hub.changed.wait(0.1)
            return answer.ended is None

    def _ids(self, said: Said) -> list[int]:
        """As the engine is given it: a real id where its text is known from it alone, else pieces with this text."""
        tokenizer = self.hub.tokenizer
        if said.ids is not None and tokenizer.real is not None:
            return list(said.ids)
        pieces = tokenizer.pieces.said(said.text) if said.text else [EMPTY]
        missing = min(said.tokens or 0, self.answer.limit - self.answer.tokens) - len(pieces)
        return [EMPTY] * missing + pieces  # of several tokens, or of one character, the text comes with the last

    def _whole(self, text: str) -> str:
        """JSON may split a character over two events, as half of a pair each; a half alone is no character."""
        if text.isascii() and not self._half:
            return text
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _over(self, over: Over) -> None:
        """The upstream says that it has ended; it counted `over.output` tokens, of this stream."""
        hub, answer = self.hub, self.answer
        with hub.changed:
            if self.closes.is_set() or answer.ended is not None:
                return
            counted = None if over.output is None else answer.base + over.output
            prompt = answer.prompt_tokens
            if prompt is None and over.prompt is not None:
                prompt = max(0, over.prompt - answer.base)
            if over.reason == "length" and counted is not None and answer.tokens < counted <= answer.limit:
                missing = counted - answer.tokens  # it sent several at once, and said their number at the end
                answer.waiting.extend([EMPTY] * missing)
                answer.tokens += missing
            answer.let_go(Ended(over.reason, "", prompt, counted))
            hub.changed.notify_all()

    def _end(self, ended: Ended) -> None:
        with self.hub.changed:
            if not self.closes.is_set() and self.answer.ended is None:
                self.answer.let_go(ended)
                self.hub.changed.notify_all()
