"""Products of a graph with constant weights, and factors that make their inputs' channels alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LEAST: Final = 32
"""Rows and columns of weights that it pays to quantise."""

QUIET: Final = 20
"""A peak counts as no smaller than its mean by this."""

NORMS: Final = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
"""Which input of a normalisation is the factor of each channel."""


@dataclass(slots=True, eq=False)
class Product:
    """given (.., k) times weight (k, n) is made (.., n). columns: factors of what is made, for its scales."""

    given: str
    weight: Floats
    made: str
    columns: Floats


def products(model: Any) -> list[Product]:
    """model: a ModelProto with its weights."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {it.name: it for it in graph.initializer}
    turns = [it for it in graph.node if it.op_type == "Transpose" and it.input[0] in constants]
    turned = {it.output[0]: it.input[0] for it in turns}
    found = []
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        name = node.input[1]
        kept = constants.get(turned.get(name, name))
        if kept is None or len(kept.dims) != 2 or min(kept.dims) < LEAST:
            continue
        weight = numpy_helper.to_array(kept)
        weight = weight.T if name in turned else weight
        found.append(Product(node.input[0], weight, node.output[0], np.ones(weight.shape[1], np.float32)))
    return found


def smooth(graph: Any, groups: Mapping[str, Sequence[Product]], peaks: Mapping[str, Floats]) -> dict[str, Floats]:
    """Multiplies each group's weights with its factors, and divides what they are given by them where that costs
    nothing: in the factors of a normalisation, or in the scales of the product before. What is returned is left to do.
    """
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    every = {product.made: product for some in groups.values() for product in some}
    left: dict[str, Floats] = {}
    for given, some in groups.items():
        weights = np.maximum.reduce([np.abs(product.weight).max(1) for product in some])
        factors = np.sqrt(_floored(peaks[given]) / _floored(weights))
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
        for product in some:
            product.weight = product.weight * factors[:, None]
        node = producers.get(given)
        alone = readers[given] == len(some)
        if node is not None and alone and node.op_type in NORMS and node.output[0] == given:
            _divide_norm(graph, node, NORMS[node.op_type], factors)
        elif node is None or not alone or not _divide_before(node, producers, readers, every, factors):
            left[given] = factors
    return left


def _floored(peaks: Floats) -> Floats:
    """A channel that was quiet while it was watched may not always be so."""
    floored: Floats = np.maximum(peaks, max(float(peaks.mean()) / QUIET, 1e-9))
    return floored


def _divide_norm(graph: Any, node: Any, at: int, factors: Floats) -> None:
    from onnx import numpy_helper

    name = node.input[at]
    own = numpy_helper.to_array(next(it for it in graph.initializer if it.name == name))
    node.input[at] = f"{node.output[0]}.smooth"  # others may share the factors
    graph.initializer.append(numpy_helper.from_array((own / factors).astype(np.float32), node.input[at]))


def _divide_before(
    node: Any, producers: Mapping[str, Any], readers: Mapping[str, int], every: Mapping[str, Product], factors: Floats
) -> bool:
    """A gate times a part of a product: that part's scales. False where it is something else."""
    if node.op_type != "Mul":
        return False
    for name in reversed(node.input):
        split = producers.get(name)
        if split is None or readers[name] != 1:
            continue
        if name in every and len(every[name].columns) == len(factors):
            every[name].columns /= factors
            return True
        if split.op_type == "Split" and split.input[0] in every:
            product = every[split.input[0]]
            size = len(product.columns) // len(split.output)
            first = list(split.output).index(name) * size
            if size == len(factors):
                product.columns[first : first + size] /= factors
                return True
    return False
