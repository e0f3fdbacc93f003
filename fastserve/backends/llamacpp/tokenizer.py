"""LlamaTokenizer: llama.cpp's own vocabulary of a GGUF file, with the chat template of its metadata.

It has the part of a Hugging Face tokenizer that the engine and its server use. Special tokens that are written out in a
text are read as such, as transformers does. Any thread may call it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from fastserve.backends.llamacpp.library import library
from fastserve.engine.byte_tokenizer import rendered


class LlamaTokenizer:
    """owner: keeps the model alive. vocab: its vocabulary. template: of chats, None without one."""

    def __init__(self, owner: object, vocab: Any, template: str | None) -> None:
        api = library()
        self._owner = owner
        self._vocab = vocab
        self.chat_template = template
        self.vocab_size: int = api.llama_vocab_n_tokens(vocab)
        self.bos_token_id = _token(api.llama_vocab_bos(vocab))
        self.eos_token_id = _token(api.llama_vocab_eos(vocab))
        self.all_special_ids = tuple(
            [id for id in range(self.vocab_size) if api.llama_vocab_is_control(vocab, id)],
        )

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            count: int = library().llama_tokenize(self._vocab, data, len(data), ids, room, add_special_tokens, True)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def decode(self, token_ids: int | Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Invalid UTF-8 becomes U+FFFD."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        array = (ctypes.c_int32 * len(ids))(*ids)
        room = 16 * len(ids) + 16
        while True:
            text = ctypes.create_string_buffer(room)
            count: int = library().llama_detokenize(
                self._vocab, array, len(ids), text, room, False, not skip_special_tokens
            )
            if count >= 0:
                return text.raw[:count].decode(errors="replace")
            room = -count

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Raises IndexError for an id that is none."""
        if not all(0 <= id < self.vocab_size for id in ids):
            raise IndexError(f"token ids go from 0 to {self.vocab_size - 1}")
        name = library().llama_vocab_get_text
        return [(name(self._vocab, id) or b"").decode(errors="replace") for id in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        if isinstance(tokens, str):
            return self._names.get(tokens)
        return [self._names.get(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        return dict(self._names)

    @cached_property
    def _names(self) -> dict[str, int]:
        return {name: id for id, name in enumerate(self.convert_ids_to_tokens(range(self.vocab_size)))}

    def get_chat_template(self, chat_template: str | None = None, tools: object = None) -> str:
        """Raises ValueError where the file has none."""
        found = chat_template or self.chat_template
        if found is None:
            raise ValueError("the GGUF file has no chat template")
        return found

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, chat_template: str | None = None, tokenize: bool = True,
        add_generation_prompt: bool = False, **variables: Any,
    ) -> str | list[int]:  # fmt: skip
        """transformers renders it."""
        named = {"bos_token": self.bos_token_id, "eos_token": self.eos_token_id}
        names = {name: self.convert_ids_to_tokens([id])[0] for name, id in named.items() if id is not None}
        text = rendered(
            self.get_chat_template(chat_template), conversation, add_generation_prompt, **{**names, **variables}
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text


def _token(id: int) -> int | None:
    """What is below 0 is none."""
    return id if id >= 0 else None
