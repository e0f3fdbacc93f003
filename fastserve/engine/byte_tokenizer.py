"""ByteTokenizer: one UTF-8 byte, one token. Used by the scripted backend, without dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

EOS: Final = 256


class ByteTokenizer:
    """The part of a Hugging Face tokenizer that the engine and its server use. Ids 0 to 255 are bytes, 256 is EOS."""

    eos_token_id = EOS
    bos_token_id = None
    all_special_ids = (EOS,)
    vocab_size = 257
    longest_token = 1
    chat_template = None

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: int | Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Invalid UTF-8 becomes U+FFFD."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        parts: list[str] = []
        run = bytearray()
        for id in ids:
            if id < EOS:
                run.append(id)
            elif not skip_special_tokens:
                parts += [run.decode(errors="replace"), "<eos>"]
                run.clear()
        return "".join(parts) + run.decode(errors="replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [f"<0x{id:02X}>" if id < EOS else "<eos>" for id in ids]

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, chat_template: str | None = None, tokenize: bool = True,
        add_generation_prompt: bool = False, **variables: Any,
    ) -> str | list[int]:  # fmt: skip
        """One `role: content` line a message; else what a Jinja template makes of them, which takes transformers."""
        if chat_template is None:
            text = "".join([f"{message['role']}: {message['content']}\n" for message in conversation])
            text += "assistant: " if add_generation_prompt else ""
        else:
            text = rendered(chat_template, conversation, add_generation_prompt, **variables)
        return self.encode(text) if tokenize else text


def rendered(
    template: str, conversation: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any
) -> str:  # fmt: skip
    """What a Jinja template makes of a conversation, as transformers renders it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    chats = [[dict(message) for message in conversation]]
    made: Any = render_jinja_template(
        chats, chat_template=template, add_generation_prompt=add_generation_prompt, **variables
    )
    return str(made[0][0])  # with where the answers are in it, of each chat
