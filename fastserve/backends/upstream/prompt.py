"""Prompt: what a request asks the upstream, read from token ids: text, the upstream's own ids, or a chat's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from fastserve.backends.upstream.tokenizer import ANSWER, GOES_ON, ROLE, SAYS, UpstreamTokenizer

Part = str | list[int]
"""Text, or ids of the model's own vocabulary."""


@dataclass(slots=True, eq=False)
class Prompt:
    """parts: in order; one of a chat has none until the upstream's template has made some. goes_on: the last message is
    to be continued, not answered.
    """

    parts: list[Part] = field(default_factory=list)
    messages: list[dict[str, str]] | None = None
    goes_on: bool = False

    @property
    def ids(self) -> list[int] | None:
        """All of it as ids; None where some of it is text."""
        if any(isinstance(part, str) for part in self.parts):
            return None
        return [id for part in self.parts for id in part if isinstance(id, int)]

    def text(self, tokenizer: UpstreamTokenizer) -> str:
        """All of it as text."""
        return "".join([part if isinstance(part, str) else tokenizer.decode(part) for part in self.parts])


def read_prompt(ids: Sequence[int], tokenizer: UpstreamTokenizer) -> Prompt:
    """Raises ValueError for an id that stands for nothing."""
    wrong = next((id for id in ids if not tokenizer.knows(id)), None)
    if wrong is not None:
        raise ValueError(
            f"{wrong} is not a token that is known in front of this upstream: send text, or name the model's tokenizer"
        )
    if ROLE not in ids:
        return Prompt(_parts(ids, tokenizer))
    messages: list[dict[str, str]] = []
    where = ""
    for mark, group in groupby(ids, lambda id: id if id in (ROLE, SAYS, ANSWER, GOES_ON) else 0):
        if mark == ROLE:
            messages.append({"role": "", "content": ""})
            where = "role"
        elif mark == SAYS:
            where = "content"
        elif not mark and messages and where:  # what a cut has left of a message before the first whole one is dropped
            messages[-1][where] += tokenizer.decode(list(group))
    return Prompt(messages=messages, goes_on=GOES_ON in ids)


def _parts(ids: Sequence[int], tokenizer: UpstreamTokenizer) -> list[Part]:
    return [list(group) if real else tokenizer.decode(list(group)) for real, group in groupby(ids, tokenizer.is_real)]
