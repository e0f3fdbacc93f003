"""UpstreamTokenizer: what stands for a tokenizer in front of a server that has its own.

With the model's own tokenizer (`tokenizer=` a folder, a GGUF file or a name in the cache) prompts are its ids, counted
exactly. Without one they are Pieces, whose number is an estimate, and a chat keeps its messages apart, so that the
upstream's template makes a prompt of them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from fastserve.backends.upstream.pieces import END, FIRST, SHORT, Pieces
from fastserve.engine.byte_tokenizer import rendered

ROLE, SAYS, ANSWER, GOES_ON = (FIRST - 1 - i for i in range(4))
"""Ids that hold a chat together: a message begins with its role, says what follows; then an answer to them is wanted,
or the last one is to be continued.
"""

BYTES: Final = 256
"""Where no vocabulary is known, ids below are bytes, as of ByteTokenizer."""

_NONCE: Final = secrets.token_hex(8)
"""No client knows it, so that no text can pretend to be the end of a message."""

_MARKS: Final = {ROLE: f"<|{_NONCE}.role|>", SAYS: f"<|{_NONCE}.says|>", ANSWER: f"<|{_NONCE}.answer|>",
                 GOES_ON: f"<|{_NONCE}.goes_on|>"}  # fmt: skip
_IDS: Final = {mark: id for id, mark in _MARKS.items()}
_SPLIT: Final = re.compile("(" + "|".join(map(re.escape, _IDS)) + ")")

MESSAGES: Final = "{% for message in messages %}{{ message['role'] }}{{ message['content'] }}{% endfor %}"
"""What of a chat is carried to the upstream, as its template would say it: any role, and text."""


class UpstreamTokenizer:
    """The part of a Hugging Face tokenizer that the engine and its server use.

    real: the model's own; None: text is cut into pieces. vocabulary: ids below it are the upstream's, though nothing is
    known of their text; 0: they are bytes.
    """

    def __init__(self, real: Any = None, vocabulary: int = 0) -> None:
        self.real = real
        self.pieces = Pieces()
        self.vocabulary = len(real) if real is not None else vocabulary
        self.vocab_size = END
        self.eos_token_id: int | None = getattr(real, "eos_token_id", None)
        self.bos_token_id: int | None = getattr(real, "bos_token_id", None)
        self.all_special_ids: tuple[int, ...] = tuple(getattr(real, "all_special_ids", ()))
        self.added_tokens_decoder: Mapping[int, Any] = getattr(real, "added_tokens_decoder", {})
        self.chat_template: Any = MESSAGES if real is None else getattr(real, "chat_template", None)

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def estimates(self) -> bool:
        """Whether the number of tokens of a text is an estimate."""
        return self.real is None

    @cached_property
    def longest_token(self) -> int:
        """Characters."""
        return SHORT if self.real is None else max(map(len, self.real.get_vocab()), default=256)

    def is_real(self, id: int) -> bool:
        """Whether it is an id of the model's own vocabulary."""
        return id < self.vocabulary

    def knows(self, id: int) -> bool:
        """Whether it stands for anything."""
        return 0 <= id < (self.vocabulary or BYTES) or id in _MARKS or self.pieces.knows(id)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if self.real is not None:
            return list(self.real.encode(text, add_special_tokens=add_special_tokens))
        ids: list[int] = []
        for part in _SPLIT.split(text):
            mark = _IDS.get(part)
            ids += self.pieces.encode(part) if mark is None else [mark]
        return ids

    def decode(self, token_ids: int | Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Nothing is said for an id of the upstream's whose text is not known."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        text = ""
        for below, group in groupby(ids, lambda id: id < FIRST - len(_MARKS)):
            if not below:
                text += "".join([self.pieces.text(id) for id in group])
            elif self.real is not None:
                text += self.real.decode(list(group), skip_special_tokens=skip_special_tokens,
                                         clean_up_tokenization_spaces=False)  # fmt: skip
            elif not self.vocabulary:
                text += bytes([id for id in group if id < BYTES]).decode(errors="replace")
        return text

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        if self.real is not None and all(map(self.is_real, ids)):
            return list(self.real.convert_ids_to_tokens(ids))
        return [self.decode([id]) for id in ids]

    def get_chat_template(self, tools: Any = None) -> Any:
        return self.chat_template if self.real is None else self.real.get_chat_template(tools=tools)

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, chat_template: str | None = None, tokenize: bool = True,
        add_generation_prompt: bool = False, continue_final_message: bool = False, **variables: Any,
    ) -> str | list[int]:  # fmt: skip
        """By the model's own tokenizer, or by a template that is given; else marked, for the upstream's."""
        how: dict[str, Any] = {"add_generation_prompt": add_generation_prompt,
                               "continue_final_message": continue_final_message, **variables}  # fmt: skip
        if self.real is not None:
            text = str(self.real.apply_chat_template(conversation, chat_template=chat_template, tokenize=False, **how))
        elif chat_template in (None, MESSAGES):
            said = [f"{_MARKS[ROLE]}{one['role']}{_MARKS[SAYS]}{one.get('content') or ''}" for one in conversation]
            text = "".join(said) + _MARKS[GOES_ON if continue_final_message else ANSWER]
        else:
            text = rendered(chat_template, conversation, **how)
        return self.encode(text, add_special_tokens=False) if tokenize else text


def load_tokenizer(name: str) -> Any:
    """A Hugging Face tokenizer: of a folder, a GGUF file, or a name that is in the hub's cache. Raises ValueError."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError(f"a tokenizer of one's own is read by transformers: {error}") from error
    path = Path(name).expanduser()
    try:
        if path.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        return AutoTokenizer.from_pretrained(str(path) if path.exists() else name, local_files_only=path.exists())
    except Exception as error:  # whatever a file of somebody else's makes transformers raise
        raise ValueError(
            f"tokenizer={name!r} cannot be read: {type(error).__name__}: {str(error).strip().splitlines()[0][:300]}; "
            "give a folder with tokenizer.json, a .gguf file, or leave it out: tokens are estimated then"
        ) from error
