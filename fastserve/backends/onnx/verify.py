"""Verification at load: short prompts whose logits the export has kept, as PyTorch gave them, are asked for again.

They come as chunks and as decodes beside a chunk, so a wrong cache, place or rotation shows, and so does a wrong build
of ONNX Runtime: neither needs torch. In float32 every logit must agree. Weights of fewer bits are asked for less: that
they are nearer to the model than to another one; what they cost is measured by docs/backends.md's table.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from fastserve.backends.onnx.folder import Exported
from fastserve.backends.onnx.genai import GenaiGraph
from fastserve.backends.onnx.graph import Chunk, PackedGraph
from fastserve.models.folder import ModelNotFoundError

LOG = logging.getLogger("fastserve")

PROBE: Final = "probe.npz"

STRUCTURE: Final = 1e-3
"""In float32: largest distance of a logit, relative to the spread of its row."""

ROUNDING: Final = {"int8": 0.5, "int4": 1.0}
"""Of quantised weights: geometric mean over rows of the root mean square distance, relative to the spread. Two models
that know nothing of each other are 1.4 apart.
"""


LONG: Final = 12
PARTS: Final = 0.2
"""Weights of 4 bits round otherwise in a batch of another size."""


def verify(exported: Exported, graph: PackedGraph | GenaiGraph) -> None:
    """ValueError where the model is not computed as PyTorch computed it. graph: empty; it is used up."""
    path = exported.path / PROBE
    if not path.is_file():
        LOG.info("%s was exported elsewhere: it is compared with itself, and with nothing else", exported.name)
        return _agrees(exported, graph)
    try:
        with np.load(path) as kept:
            tokens, exact = kept["tokens"].tolist(), kept["logits"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFoundError(f"The {PROBE} of {exported.path} cannot be read: export the model again.") from error
    told = exact.shape[1]
    length = len(tokens[0])
    arrays = graph.arrays
    if arrays.slots < len(tokens) or arrays.room < length:
        arrays.grow(len(tokens), length, [])
    last = len(tokens) - 1
    got = np.empty_like(exact)
    for slot, prompt in enumerate(tokens):  # all but the last one up to where its logits are told, in two chunks
        end = length - told if slot < last else (length - told) // 2
        for first, stop in ((0, end // 2), (end // 2, end)):
            if stop > first:
                graph.run((), (), [Chunk(slot, prompt[first:stop], first, False)])
    for at in range(length - told, length):
        chunks = []
        if at == length - told:
            chunks = [Chunk(last, tokens[last][(length - told) // 2 : at + 1], (length - told) // 2, True)]
        decodes = tokens if not chunks else tokens[:last]
        logits = graph.run([prompt[at] for prompt in decodes], [at] * len(decodes), chunks)
        got[:, at - length + told] = logits
    spread = np.maximum(exact.std(-1), 1e-12)
    if exported.quantize == "none":
        apart = float((np.abs(got - exact).max(-1) / spread).max())
        allowed = STRUCTURE
    else:
        rows = np.sqrt(np.square(got - exact).mean(-1)) / spread
        apart = float(np.exp(np.log(np.maximum(rows, 1e-9)).mean()))
        allowed = ROUNDING[exported.quantize]
    LOG.info("%s, %s: %.2g of the spread from PyTorch's logits", exported.name, exported.quantize, apart)
    if not apart <= allowed:  # a NaN is refused too
        raise ValueError(
            f"The model {exported.name} is refused: its logits on ONNX Runtime are {apart:.2g} of their spread from "
            f"PyTorch's ({allowed:g} is allowed, quantize={exported.quantize})."
        )


def _agrees(exported: Exported, graph: PackedGraph | GenaiGraph) -> None:
    """Two prompts at once, in chunks and token by token, must give the logits that each gives as a whole: else its
    caches do not change in place.
    """
    texts = [[(7 + 13 * i * (place + 1)) % exported.vocab_size for i in range(LONG)] for place in range(2)]
    whole = [graph.run((), (), [Chunk(0, text, 0, True)])[0].copy() for text in texts]
    for slot, text in enumerate(texts):
        for first, end in ((0, LONG // 2), (LONG // 2, LONG - 1)):
            graph.run((), (), [Chunk(slot, text[first:end], first, False)])
    got = graph.run([text[-1] for text in texts], [LONG - 1] * 2, ())
    error = max(float(np.abs(a - b).max() / max(float(a.std()), 1e-12)) for a, b in zip(whole, got, strict=True))
    if not error <= PARTS:
        raise ValueError(
            f"The model {exported.name} is refused: a prompt in parts gives logits that are {error:.2g} of their "
            f"spread from those of the whole ({PARTS:g} is allowed), so its caches are not kept as they have to be."
        )
