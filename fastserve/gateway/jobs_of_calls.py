"""JobsOfCalls: the Job that a router sees, made from a request whose tokens nobody has counted.

prompt: a token is taken for 4 bytes of text. guess: the request's own `guess`, else the running mean of answers of its
model, at most its limit. ids: of each 256 bytes of the prompt, chained, so that two prompts that begin alike have the
same first ids; made only for routers that need them.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from fastserve.gateway.call import Call
from fastserve.sched.job import NEVER, Job
from fastserve.server.api.errors import ApiError
from fastserve.server.api.program_names import BODY, LAST, ProgramFields, named
from fastserve.server.programs import of_client

BYTES = 4
"""Of text, for which a token is taken."""

UNIT_TOKENS = 64
"""Tokens that each of job.ids stands for."""

MOST_UNITS = 2048
"""Of one prompt: 128 thousand tokens; what two longer prompts share beyond that is not looked at. About 3 ms."""

ANSWER = 128
"""Output tokens that are taken for an answer before one of its model has ended."""

SMOOTHING = 0.05
"""The share of the newest answer in the running mean."""

FIELDS = frozenset(
    path.partition(".")[0] for row in (*BODY, *LAST) for path in row[1:6] if isinstance(path, str) and path
)
NOTHING = ProgramFields()
LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict")


class JobsOfCalls:
    """prefixes: whether the router needs job.ids."""

    def __init__(self, prefixes: bool) -> None:
        self.prefixes = prefixes
        self.numbers = itertools.count()
        self.means: dict[str, float] = {}

    def of(self, call: Call, now: int) -> Job:
        """now: ns of the router's clock."""
        fields = call.fields or {}
        pieces = list(prompt_of(fields))
        tokens = sum(len(piece) if isinstance(piece, list) else -(-len(piece) // BYTES) for piece in pieces)
        limit = next((found for name in LIMITS if (found := _whole(fields.get(name))) is not None), NEVER)
        guess = _whole(fields.get("guess"))
        if guess is None:
            guess = max(1, min(limit, round(self.means.get(call.model, ANSWER))))
        return Job(
            next(self.numbers), now, max(1, tokens), limit, call.client, self._program(call, fields),
            _priority(fields.get("priority")), guess=guess, ids=tuple(units(pieces)) if self.prefixes else (),
        )  # fmt: skip

    def ended(self, model: str, tokens: int) -> None:
        """An answer of so many tokens has ended."""
        before = self.means.get(model)
        self.means[model] = tokens if before is None else before + SMOOTHING * (tokens - before)
        if len(self.means) > 4096:  # names that clients make up do not get so far: their model is served nowhere
            self.means.clear()

    def _program(self, call: Call, fields: dict[str, Any]) -> str:
        try:
            body = NOTHING
            if not FIELDS.isdisjoint(fields):
                body = ProgramFields.model_validate({name: fields[name] for name in FIELDS if name in fields})
            told = named(body, call.headers.raw)
        except (ValueError, ApiError):  # the upstream says what is wrong with it
            return ""
        return of_client(call.client if call.authenticated else None, told.parent or told.program)


def prompt_of(fields: dict[str, Any]) -> Iterator[bytes | list[int]]:
    """The prompt in pieces: texts in UTF-8, or token ids. What it is depends on the route's fields."""
    messages = fields.get("messages")
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict):
                yield f"{message.get('role')}\n".encode("utf-8", "surrogatepass")
                yield from _content(message.get("content"))
        return
    prompt = fields.get("prompt", fields.get("text"))
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        for each in prompt:
            yield from _content(each)
    else:
        yield from _content(prompt)


def _content(value: Any) -> Iterator[bytes | list[int]]:
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif isinstance(value, list):
        if all(type(item) is int for item in value):
            yield value
        else:
            for part in value:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield part["text"].encode("utf-8", "surrogatepass")


def units(pieces: Iterable[bytes | list[int]]) -> Iterator[int]:
    """Chained hashes of each UNIT_TOKENS tokens that are whole."""
    size = UNIT_TOKENS * BYTES
    text = b"".join([piece if isinstance(piece, bytes) else _packed(piece) for piece in pieces])
    before = b""
    for start in range(0, min(len(text) - size + 1, MOST_UNITS * size), size):
        before = blake2b(text[start : start + size], digest_size=8, key=before).digest()
        yield int.from_bytes(before, "little") >> 1


def _packed(ids: list[int]) -> bytes:
    """4 bytes a token, as text has on average."""
    try:
        return array("I", ids).tobytes()
    except (OverflowError, TypeError):
        return repr(ids).encode()


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _priority(value: Any) -> int:
    return value if type(value) is int and abs(value) < 1 << 31 else 0
