"""The embedded model: a small Llama and a byte tokenizer, generated from a seed at first use; needs no network.

11 million random parameters, a context of 4,096 tokens, one token per byte. It emits printable ASCII and the newline
only, one character a token: generation_config.json suppresses all else, the end token included. Its EOS is the
newline: an output is one line, about a hundred characters at temperature 1 and longer when greedy. With `ignore_eos`
the output continues with further lines.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save_file

from fastserve.cache_folder import cache_folder
from fastserve.engine.token_text import LETTERS
from fastserve.models import embedded_weights as shape
from fastserve.models.made_folder import make_folder

VERSION: Final = 1
"""To be raised with any change of what is written: folders of other versions are left alone."""

CONTEXT: Final = 4096
BYTES: Final = 256
SPECIAL: Final = (
    "<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|spare|>",
)  # fmt: skip
"""The tokens after the bytes."""

EMITTED: Final = (ord("\n"), *range(ord(" "), ord("~") + 1))
"""All that it ever says."""

CHAT: Final = (
    "{% for message in messages %}"
    "<|{{ message['role'] if message['role'] in ['system', 'assistant', 'tool'] else 'user' }}|>"
    "{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A role it has no token for speaks as the user."""

_WEIGHTS: Final = "model.safetensors"


_JSON: Final = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def make_embedded(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the model, made now unless it is there. It appears whole, by one rename.

    folder: where it goes, new or empty; by default one in cache_folder(). A damaged
    one is made anew. FileExistsError where something else is in its place, OSError where nothing can be written.
    """
    if folder is None:
        folder = cache_folder() / f"embedded-{VERSION}"
    home = Path(folder)
    if _whole(home):
        return home
    if home.is_dir() and not {file.name for file in home.iterdir()} <= {_WEIGHTS, *_JSON}:
        raise FileExistsError(f"{home} holds other files than the embedded model's: name a new or an empty folder")
    make_folder(home, _write, _whole)
    return home


def _whole(folder: Path) -> bool:
    """All its files are there, and none was cut short."""
    try:
        for name in _JSON:
            json.loads((folder / name).read_bytes())
        with (folder / _WEIGHTS).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(length))
            size = file.seek(0, os.SEEK_END)
    except (OSError, ValueError):
        return False
    ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    return bool(size == 8 + length + max(ends))


def _write(folder: Path) -> None:
    folder.mkdir()
    save_file(dict(shape.weights()), folder / _WEIGHTS, metadata={"format": "pt"})
    for name, content in zip(_JSON, (_config(), _generation_config(), _tokenizer(), _tokenizer_config()), strict=True):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def special_id(special: str) -> int:
    return BYTES + SPECIAL.index(special)


def suppressed() -> list[int]:
    """All that it never says."""
    return [token for token in range(shape.VOCAB) if token not in EMITTED]


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": shape.VOCAB,
        "hidden_size": shape.HIDDEN,
        "intermediate_size": shape.INTERMEDIATE,
        "num_hidden_layers": shape.LAYERS,
        "num_attention_heads": shape.HEADS,
        "num_key_value_heads": shape.KV_HEADS,
        "head_dim": shape.HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "max_position_embeddings": CONTEXT,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": special_id("<|begin|>"),
        "eos_token_id": special_id("<|end|>"),
        "pad_token_id": special_id("<|pad|>"),
    }


def _generation_config() -> dict[str, Any]:
    return {
        "do_sample": True,
        "bos_token_id": special_id("<|begin|>"),
        "eos_token_id": [shape.EOS, special_id("<|end|>")],
        "pad_token_id": special_id("<|pad|>"),
        "suppress_tokens": suppressed(),
    }


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE without a single merge: the id of a byte is its value. No token is added to a text."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": BYTES + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": LETTERS,
            "merges": [],
        },
    }  # fmt: skip


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT,
    }
