"""How large the inputs of each product become, channel by channel: what weights of 8 bits are made with.

The model says itself what it is fed with: a few sequences are drawn from it, each from a token of its own. So no
text is needed, and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.backends.onnx.arrays import Arrays
from fastserve.backends.onnx.folder import Exported
from fastserve.backends.onnx.graph import PackedGraph
from fastserve.backends.onnx.session import open_session

SEQUENCES: Final = 8
LENGTH: Final = 96
"""Tokens of each sequence."""

SEED: Final = 0


def peaks(exported: Exported, model: Any, inputs: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of these values, over all tokens. inputs: name -> channels. model: the
    ModelProto of the float32 graph without its weights; it is changed.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    told = {name: f"peak.{number}" for number, name in enumerate(inputs)}
    for name, peak in told.items():
        graph.node.append(helper.make_node("Abs", [name], [f"{peak}.abs"]))
        graph.node.append(helper.make_node("Flatten", [f"{peak}.abs"], [f"{peak}.rows"], axis=-1))
        graph.node.append(helper.make_node("ReduceMax", [f"{peak}.rows", "peak.axis"], [peak], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, None))
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "peak.axis"))
    session = open_session(model.SerializeToString(), threads=None, beside=exported.path)
    length = min(LENGTH, exported.max_model_len)
    room = min(exported.max_model_len, max(length, exported.window)) if exported.window else length
    arrays = Arrays(exported.layers, exported.kv_heads, exported.head_dim, room, SEQUENCES, room)
    runner = PackedGraph(session, arrays, exported.vocab_size)
    found = {name: np.zeros(channels, np.float32) for name, channels in inputs.items()}
    values = {name: np.zeros(channels, np.float32) for name, channels in inputs.items()}
    binding = runner.bound(SEQUENCES, -1)
    for name, value in values.items():
        binding.bind_output(told[name], "cpu", 0, np.float32, value.shape, value.ctypes.data)
    dice = np.random.default_rng(SEED)
    barred = np.array([*exported.eos_ids, *exported.suppress], np.int64)
    tokens = dice.choice(np.setdiff1d(np.arange(exported.vocab_size), barred), SEQUENCES)
    for at in range(length):
        logits = runner.run(tokens.tolist(), [at] * SEQUENCES, ()).astype(np.float64)
        for name, value in values.items():
            np.maximum(found[name], value, out=found[name])
        logits += dice.gumbel(size=logits.shape)  # the largest is then a draw at temperature 1
        logits[:, barred] = -np.inf
        tokens = logits.argmax(1)
    return found
