"""SessionCalls: the requests of a trace of sessions, made when they are due, because what is sent may have in it what
was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fastserve.bench.call import Call, Messages, Reply
from fastserve.workload import Trace
from fastserve.workload.prompts import Dialogue, Part, TracePrompts, tokens_of
from fastserve.workload.requests import TraceRequest, tools_of
from fastserve.workload.trace import IntArray

Prompt = IntArray | str | Messages

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,"
WORDS = (
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were",
    "her", "all", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "more",
    "no", "if", "out", "so", "said", "what", "up", "its", "about", "into", "than", "them", "can", "only", "other",
    "new", "some", "could", "time", "these", "two", "may", "then", "do", "first", "any", "my", "now", "such",
    "like", "our", "over", "man", "me", "even", "most", "made", "after", "also", "did", "many", "before", "must",
    "through", "back", "years", "where", "much", "your", "way", "well", "down", "should", "because", "each",
    "just", "those", "people", "how", "too", "little", "state", "good", "very", "make", "world", "still", "own",
    "see", "men", "work", "long", "get", "here", "between", "both",
)  # fmt: skip


class Words:
    """Text in which each id below `size` is one token, as far as that can be: of bytes a letter, else a common word.

    count: text -> tokens of the server's; None where nobody counts, and then a word stands for a token.
    """

    def __init__(self, count: Callable[[str], int] | None) -> None:
        sample = " ".join(WORDS[:20])
        of_bytes = count is not None and count(sample) > 2 * 20
        self.table = list(LETTERS) if of_bytes else [f" {word}" for word in WORDS]
        self.exact = count is not None

    @property
    def size(self) -> int:
        return len(self.table)

    def text(self, ids: IntArray) -> str:
        return "".join([self.table[id] for id in ids.tolist()])


class SessionCalls:
    """requests: of the trace, by row. words: of text; None: prompts are token ids. messages: text as a chat's turns."""

    def __init__(
        self,
        trace: Trace,
        requests: Sequence[TraceRequest],
        dialogue: Dialogue,
        words: Words | None = None,
        messages: bool = False,
    ) -> None:
        self.trace = trace
        self.requests = requests
        self.dialogue = dialogue
        self.words = words
        self.messages = messages
        self.tools = tools_of(trace)

    def __len__(self) -> int:
        return len(self.requests)

    def make(self, row: int, at: int) -> Call:
        """The request of this row, due at `at`, ns after the start. Once for each row."""
        request = self.requests[row]._replace(arrival=at)
        called = self.trace.tool
        return Call(
            request,
            self._prompt(self.dialogue.make(row)),
            "" if self.tools is None else self.tools[row],
            "" if called is None else called[row],
        )

    def answered(self, row: int, reply: Reply) -> None:
        """Before what follows is made."""
        if not reply.completed:
            return
        if self.words is not None:
            self.dialogue.answered(row, None if reply.text is None else "".join(reply.text))
        else:
            self.dialogue.answered(row, reply.token_ids or None)

    def _prompt(self, parts: Sequence[Part]) -> Prompt:
        if self.words is None:
            return tokens_of(parts)
        texts = [part.text if isinstance(part.text, str) else self.words.text(part.text) for part in parts]
        if not self.messages:
            return "".join(texts)
        turns = zip(parts, texts, strict=True)
        return [
            {"role": "assistant" if part.answered else "user", "content": text.strip()} for part, text in turns if text
        ]


class AlikePrompts:
    """Recorded text alone, for calls that are made beforehand (bench.prompts.Prompts)."""

    def __init__(self, prompts: TracePrompts, words: Words | None = None) -> None:
        self.prompts = prompts
        self.words = words

    def make(self, index: int, tokens: int) -> IntArray | str:
        ids = self.prompts.of(index)
        return ids if self.words is None else self.words.text(ids)


class FixedCalls:
    """Calls that do not hang on any answer, in sessions: each may be a program by itself."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls

    def __len__(self) -> int:
        return len(self.calls)

    def make(self, row: int, at: int) -> Call:
        call = self.calls[row]
        return replace(call, request=call.request._replace(arrival=at))

    def answered(self, row: int, reply: Reply) -> None: ...
