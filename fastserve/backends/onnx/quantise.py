"""Weights of 8 or 4 bits, made of a float32 export once and kept in the cache folder.

int8: weights are whole numbers with a scale a column, and so is each row of what they are multiplied with, whose scale
is found while it runs. So products are of bytes, which a processor does four at a time, and exact: a row's result does
not depend on the others. What makes that near enough is done beforehand (SmoothQuant, Xiao et al., ICML 2023): channels
whose inputs are large are divided by a factor that their weights are multiplied with, a compromise of the two peaks.

int4: weights alone, 4 bits in blocks of 32, as ONNX Runtime's MatMulNBits takes them; 8 bits in the head. What it costs
a small model is much: docs/backends.md has figures.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.backends.onnx.blocks import BLOCK, in_blocks
from fastserve.backends.onnx.calibrate import peaks
from fastserve.backends.onnx.folder import GRAPH, MANIFEST, OWN, Exported, read_own
from fastserve.backends.onnx.session import runtime
from fastserve.backends.onnx.smooth import Product, products, smooth
from fastserve.cache_folder import cache_folder
from fastserve.importing import needs
from fastserve.models.made_folder import make_folder

LOG = logging.getLogger("fastserve")

VERSION: Final = 1
"""To be raised with any change of what is written."""

WEIGHTS: Final = f"{GRAPH}.data"
MOST: Final = 127
ZERO: Final = 128
"""What nought is as an unsigned byte: rows are unsigned, weights signed, which is what processors multiply quickly."""

BYTES: Final = 4
"""MatMulNBits' accuracy_level: what the weights are multiplied with becomes bytes, block by block."""


def quantised(exported: Exported, quantize: str) -> Exported:
    """The folder with its weights in fewer bits, made now unless it is there. ValueError for an export that is
    quantised already or was made elsewhere, ImportError where the package onnx is not there, OSError.
    """
    check_can(exported, quantize)
    facts = {"of": exported.path.name, "made_of": dict(exported.made_of), "version": VERSION, "quantize": quantize}
    facts["onnxruntime"] = runtime().__version__
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    home = cache_folder() / "onnx" / f"{exported.path.name.partition('-')[0]}-{quantize}-{key}"
    if not whole(home):
        LOG.warning("making weights of %s for %s, once, in %s", quantize, exported.name, home)
        make_folder(home, lambda folder: quantise(exported, quantize, folder), whole)
    return read_own(home)


def check_can(exported: Exported, quantize: str) -> None:
    """ValueError for an export that is quantised already or was made elsewhere, ImportError for a missing package."""
    if exported.kind != OWN:
        raise ValueError(f"{exported.path} was exported elsewhere: it is served as it is, without quantize")
    if quantize == "none":
        return
    if exported.quantize != "none":
        raise ValueError(f"{exported.path} has weights of {exported.quantize}: quantize them from float32, or leave it")
    needs("onnx", "onnx", "onnx")


def quantise(exported: Exported, quantize: str, folder: Path) -> None:
    """Writes the folder, which must not be there."""
    shutil.copytree(exported.path, folder, ignore=shutil.ignore_patterns("*.onnx", "*.data", MANIFEST))
    write = {"int8": _int8, "int4": _int4}[quantize]
    write(exported, folder)
    told = json.loads((exported.path / MANIFEST).read_bytes())
    files = {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
    text = json.dumps({**told, "quantize": quantize, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def whole(folder: Path) -> bool:
    """All is there, and no file was cut short."""
    try:
        read_own(folder)
    except ValueError:
        return False
    return True


def _save(model: Any, folder: Path) -> None:
    import onnx

    onnx.save(model, folder / GRAPH, save_as_external_data=True, location=WEIGHTS, size_threshold=1024)


# -- 8 bits ------------------------------------------------------------------------------------------------------------


def _int8(exported: Exported, folder: Path) -> None:
    import onnx

    inputs = {it.given: it.weight.shape[0] for it in products(onnx.load(exported.file))}
    found = peaks(exported, onnx.load(exported.file, load_external_data=False), inputs)
    model = onnx.load(exported.file)
    groups: dict[str, list[Product]] = {}
    for product in products(model):
        groups.setdefault(product.given, []).append(product)
    smoothed = smooth(model.graph, groups, found)
    _rewrite(model, groups, smoothed)
    _save(model, folder)


def _rewrite(model: Any, groups: dict[str, list[Product]], smoothed: dict[str, NDArray[np.float32]]) -> None:
    """Each product in bytes. smoothed: factors that are not in the graph yet, by the input that they divide."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {
        "int8.axis": np.array([-1]), "int8.step": np.array(1 / MOST, np.float32), "int8.zero": np.array(ZERO, np.uint8),
    }  # fmt: skip
    mine = {product.made: product for some in groups.values() for product in some}
    nodes = []
    ready: dict[str, str] = {}
    for node in graph.node:
        product = mine.get(node.output[0]) if node.op_type == "MatMul" else None
        if product is None:
            nodes.append(node)
            continue
        name = f"int8.{product.made}"
        if product.given not in ready:
            rows = ready[product.given] = f"{name}.rows"
            given = product.given
            if given in smoothed:
                constants[f"{name}.smooth"] = 1 / smoothed[given]
                nodes.append(helper.make_node("Mul", [given, f"{name}.smooth"], [f"{name}.even"]))
                given = f"{name}.even"
            nodes += [
                helper.make_node("Abs", [given], [f"{rows}.abs"]),
                helper.make_node("ReduceMax", [f"{rows}.abs", "int8.axis"], [f"{rows}.peak"], keepdims=1),
                helper.make_node("Div", [given, f"{rows}.peak"], [f"{rows}.unit"]),  # a row of noughts: NaN, times 0
                helper.make_node("QuantizeLinear", [f"{rows}.unit", "int8.step", "int8.zero"], [rows]),
            ]
        rows = ready[product.given]
        scale = np.abs(product.weight).max(0) / MOST
        scale[scale == 0] = 1
        constants[f"{name}.weight"] = np.rint(product.weight / scale).astype(np.int8)
        constants[f"{name}.scale"] = (scale * product.columns).astype(np.float32)
        nodes += [
            helper.make_node(
                "MatMulIntegerToFloat", [rows, f"{name}.weight", "int8.step", f"{name}.scale", "int8.zero"],
                [f"{name}.unit"], domain="com.microsoft",
            ),
            helper.make_node("Mul", [f"{name}.unit", f"{rows}.peak"], [product.made]),
        ]  # fmt: skip
    del graph.node[:]
    graph.node.extend(nodes)
    _replace(graph, constants, numpy_helper)


def _replace(graph: Any, constants: dict[str, NDArray[Any]], numpy_helper: Any) -> None:
    """Initializers that nobody reads go, as do nodes that turn them around; these come."""
    read = {name for node in graph.node for name in node.input} | {it.name for it in graph.output}
    for node in [it for it in graph.node if it.op_type == "Transpose" and not set(it.output) & read]:
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    kept = [it for it in graph.initializer if it.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


# -- 4 bits ------------------------------------------------------------------------------------------------------------


def _int4(exported: Exported, folder: Path) -> None:
    """Blocks of a column share a scale and a nought; the head has 8 bits."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(exported.file)
    mine = {product.made: product for product in products(model)}
    constants: dict[str, NDArray[Any]] = {}
    nodes = []
    for node in model.graph.node:
        product = mine.get(node.output[0]) if node.op_type == "MatMul" else None
        if product is None:
            nodes.append(node)
            continue
        bits = 8 if product.weight.shape[1] == exported.vocab_size else 4
        name = f"int{bits}.{product.made}"
        packed, scales, noughts = in_blocks(product.weight, bits)
        constants |= {f"{name}.weight": packed, f"{name}.scale": scales, f"{name}.nought": noughts}
        nodes.append(
            helper.make_node(
                "MatMulNBits", [product.given, *(f"{name}.{it}" for it in ("weight", "scale", "nought"))],
                [product.made], domain="com.microsoft", K=product.weight.shape[0], N=product.weight.shape[1],
                bits=bits, block_size=BLOCK, accuracy_level=BYTES,
            )
        )  # fmt: skip
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _replace(model.graph, constants, numpy_helper)
    _save(model, folder)
