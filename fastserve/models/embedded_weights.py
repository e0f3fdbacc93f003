"""Weights of the embedded model: whole numbers from a counter-based generator, the same on every machine.

The output of a random transformer is noise. So a few channels of the residual stream, which no layer writes to, encode
the kind of the last character, and the output head reads from them a bias for each next one; the layers' output over
the whole context is added. The text resembles words and does not repeat.

All values are products of a small whole number and a power of two, the same in float32, bfloat16 and float16.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float16]

VOCAB: Final = 264  # the bytes, then the special tokens
LAYERS: Final = 6
HIDDEN: Final = 384
HEADS: Final = 6
KV_HEADS: Final = 2
HEAD_DIM: Final = 64
INTERMEDIATE: Final = 1280

EOS: Final = ord("\n")

SEED: Final = 7

VOWELS: Final = "aeiou"
CONSONANTS: Final = "bcdfghjklmnpqrstvwxyz"
SPACES: Final = " \n"
MARKS: Final = ".,;:!?'-"
KINDS: Final = (VOWELS, CONSONANTS, SPACES, MARKS)
"""Kinds of characters; all other tokens are a fifth kind. Each kind has a channel."""

WELCOME: Final = (
    # vowel, consonant, space, mark, other: the next character; the rows are the last one, in the same order
    (-1.5, 1.5, 1.75, 0.0, -2.0),
    (2.0, -1.0, 1.5, 0.0, -2.0),
    (1.0, 1.5, -9.0, -6.0, 0.0),
    (-4.0, -4.0, 6.0, -6.0, -4.0),
    (1.0, 1.0, 1.0, 0.0, 0.0),
)
FREQUENT: Final = " etaoinshrdlucmfwygpbvk"
NEWLINE: Final = -2.75
"""How welcome the end of the line is: in draws at temperature 1 it comes about once in 100 characters."""

_KIND_SIGNAL: Final = 20.0
_READ: Final = 0.25


def weights() -> dict[str, Array]:
    """By the names that transformers' Llama has for them."""
    made: dict[str, Array] = {}

    def put(name: str, rows: int, columns: int, exponent: int) -> Array:
        made[f"{name}.weight"] = matrix = _random(len(made), (rows, columns), exponent)
        return matrix

    def gain(name: str, value: float) -> None:
        made[f"{name}.weight"] = np.full(HIDDEN, value, np.float16)

    channels = len(WELCOME)
    embedding = put("model.embed_tokens", VOCAB, HIDDEN, -7)
    embedding[:, :channels] = 0
    embedding[np.arange(VOCAB), [kind(token) for token in range(VOCAB)]] = _KIND_SIGNAL
    for layer in range(LAYERS):
        inside = f"model.layers.{layer}"
        gain(f"{inside}.input_layernorm", 1.5)
        put(f"{inside}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN, -11)
        put(f"{inside}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN, -11)
        put(f"{inside}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN, -11)
        put(f"{inside}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM, -12)[:channels] = 0
        gain(f"{inside}.post_attention_layernorm", 1.5)
        put(f"{inside}.mlp.gate_proj", INTERMEDIATE, HIDDEN, -11)
        put(f"{inside}.mlp.up_proj", INTERMEDIATE, HIDDEN, -11)
        put(f"{inside}.mlp.down_proj", HIDDEN, INTERMEDIATE, -13)[:channels] = 0
    gain("model.norm", 1.0)
    head = put("lm_head", VOCAB, HIDDEN, -11)
    for last in range(channels):
        head[:, last] = [_READ * (_liking(token) + WELCOME[last][kind(token)]) for token in range(VOCAB)]
    return made


def kind(token: int) -> int:
    """Its channel."""
    return next((i for i, kind in enumerate(KINDS) if token < 127 and chr(token) in kind), len(KINDS))


def _liking(token: int) -> float:
    """How welcome a token is whatever came last, in steps of 1/8."""
    text = chr(token) if token < 127 else ""
    if token == EOS:
        return NEWLINE
    if text and text in FREQUENT:
        return -(FREQUENT.index(text) // 2) / 8
    if text and text in ".,":
        return -1.5
    return -3.5 if kind(token) < len(KINDS) else -4.5


def _random(stream: int, shape: tuple[int, int], exponent: int) -> Array:
    """Odd numbers from -255 to 255, times 2^exponent: uniform, of mean 0 and standard deviation 148 * 2^exponent."""
    count = shape[0] * shape[1]
    words = np.random.Philox(key=SEED << 32 | stream).random_raw(-(-count // 8))
    octets = words.astype("<u8").view(np.uint8)[:count].astype(np.float32)
    return np.ldexp(2 * octets - 255, exponent).astype(np.float16).reshape(shape)
