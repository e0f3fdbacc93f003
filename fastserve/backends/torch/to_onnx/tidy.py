"""The exported graph with fewer nodes: ONNX Runtime's own fused normalisations, and no tensor taken apart and put
together again."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.skip_normalization import (
    fuse_skip_layer_normalization,
    fuse_skip_rms_normalization,
)

BETWEEN = ("Reshape", "Transpose", "Gather", "Squeeze", "Transpose", "Reshape")
"""Ways from a part of a product to rows of heads and back: what comes out is what went in."""


def tidy(model: ir.Model) -> None:
    """In place."""
    fuse_rms_normalization(model)
    fuse_skip_rms_normalization(model)
    fuse_skip_layer_normalization(model)
    _rejoin(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)


def _rejoin(graph: ir.Graph) -> None:
    """A Concat of all outputs of a Split in their order, each reshaped to heads and back: the Split's own input."""
    for node in list(graph):
        if node.op_type != "Concat":
            continue
        sources = [_origin(value) for value in node.inputs]
        first = sources[0]
        split = first.producer() if first is not None else None
        if split is None or split.op_type != "Split" or list(split.outputs) != sources:
            continue
        whole = split.inputs[0]
        zero = _constant(graph, "tidy.zero", [0])
        rows = ir.node("Squeeze", [whole, zero])
        rows.outputs[0].name = f"{node.outputs[0].name}.rows"
        rows.outputs[0].type = node.outputs[0].type
        graph.insert_before(node, rows)
        ir.convenience.replace_all_uses_with(node.outputs[0], rows.outputs[0])


def _origin(value: ir.Value | None) -> ir.Value | None:
    """Of rows (T, heads * dim): the part (1, T, heads * dim) that they were made of; None where it is not known."""
    steps: list[str] = []
    perms: list[Any] = []
    while value is not None and (node := value.producer()) is not None and node.op_type in BETWEEN:
        steps.append(node.op_type)
        if node.op_type == "Transpose":
            perms.append(list(node.attributes["perm"].as_ints()))
        value = node.inputs[0]
    plain = steps in (["Reshape", "Transpose", pick, "Transpose", "Reshape"] for pick in ("Gather", "Squeeze"))
    return value if plain and perms == [[1, 0, 2], [0, 2, 1, 3]] else None


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(numbers, dtype=ir.DataType.INT64, name=name)
        graph.register_initializer(
            ir.Value(name=name, const_value=tensor, shape=ir.Shape([len(numbers)]), type=ir.TensorType(tensor.dtype))
        )
    return graph.initializers[name]
