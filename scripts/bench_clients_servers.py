"""Servers that scripts/bench_clients.py compares: ours with several weights, and llama.cpp's.

llama.cpp's is the package xllamacpp, a build of it for any x86-64 processor, in a process of its own under the
interpreter that has the package (FASTSERVE_LLAMACPP_PYTHON, build/llama-server, build/llamacpp, or this one).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve.cache_folder import cache_folder
from fastserve.compare.subprocess_server import Child, ServerProcess, environment, own_folder
from fastserve.named_models import SMOLLM2, how_to_get, packaged_file

ROOT = Path(__file__).parent.parent
SLOTS = 32
"""Sequences that every server may run at once."""

CONTEXT = 320
"""Tokens of the longest: prompt and answer, with some room."""

LLAMACPP = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, params.n_gpu_layers = int(sys.argv[2]), int(sys.argv[3]), 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print("serving at", server.listening_address, flush=True)
while os.read(0, 1): pass
os._exit(0)
"""


@dataclass(frozen=True)
class Kind:
    """flags: of `fastserve serve`, if it is ours; gguf: the type of the weights that llama.cpp gets."""

    flags: tuple[str, ...] = ()
    gguf: str = ""
    needs: str = ""  # a module of this interpreter


KINDS: Mapping[str, Kind] = {
    "ours, float32": Kind(("--dtype", "float32", "--weights", "exact")),
    "ours, half weights": Kind(("--dtype", "float32", "--weights", "half")),
    "ours, bfloat16": Kind(("--dtype", "bfloat16")),
    "ours, ONNX int8": Kind(("--backend", "onnx", "--quantize", "int8"), needs="onnxruntime"),
    "ours, ONNX int4": Kind(("--backend", "onnx", "--quantize", "int4"), needs="onnxruntime"),
    "llama.cpp Q8_0": Kind(gguf="Q8_0"),
    "llama.cpp Q4_1": Kind(gguf="Q4_1"),
    "llama.cpp F16": Kind(gguf="F16"),
    "llama.cpp BF16": Kind(gguf="BF16"),
}


class LlamaServer(Child):
    """llama.cpp's server on a GGUF file."""

    def __init__(self, python: str, file: Path, threads: int) -> None:
        command = [python, "-c", LLAMACPP, str(file), str(SLOTS), str(SLOTS * CONTEXT), str(threads)]
        super().__init__(command, own_folder(), environment(), 300.0)

    def ready(self) -> str | None:
        said = [line.split()[-1] for line in self.log_lines if line.startswith("serving at ")]
        return said[0] if said else None


def llamacpp_python() -> str | None:
    """The first interpreter that has xllamacpp."""
    built = [ROOT / "build" / name / "bin" / "python" for name in ("llama-server", "llamacpp")]
    for python in (os.environ.get("FASTSERVE_LLAMACPP_PYTHON", ""), *built, sys.executable):
        try:
            if python and not subprocess.run([python, "-c", "import xllamacpp"], capture_output=True).returncode:
                return str(python)
        except OSError:
            continue
    return None


def missing(name: str, python: str | None) -> str | None:
    """Why a server cannot be started here, in one line."""
    kind = KINDS[name]
    if packaged_file(SMOLLM2) is None:
        return f"SmolLM2 is not installed: {how_to_get(SMOLLM2)}"
    if kind.gguf and python is None:
        return (
            "no interpreter has xllamacpp: make build/llama-server/.installed, or name one in FASTSERVE_LLAMACPP_PYTHON"
        )
    if kind.gguf and kind.gguf != "Q4_1" and importlib.util.find_spec("gguf") is None:
        return "the package gguf is not installed: pip install gguf"
    if kind.needs and importlib.util.find_spec(kind.needs) is None:
        return f"{kind.needs} is not installed"
    return None


def start(name: str, python: str | None, threads: int) -> Child:
    """Raises ServerError."""
    kind = KINDS[name]
    if kind.gguf:
        assert python is not None
        return LlamaServer(python, gguf_file(kind.gguf), threads)
    shape = ["--model", SMOLLM2, "--threads", str(threads), "--max-batch", str(SLOTS), "--max-model-len", "2048"]
    return ServerProcess([*shape, "--policy", "fcfs", *kind.flags])


def gguf_file(kind: str) -> Path:
    """SmolLM2 with weights of this type, made once of the Q4_1 file of its package."""
    source = packaged_file(SMOLLM2)
    assert source is not None
    if kind == "Q4_1":
        return source
    made = cache_folder() / "bench" / f"{source.stem.removesuffix('.Q4_1')}.{kind}.gguf"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(f".{os.getpid()}")
        convert(source, partial, kind)
        partial.replace(made)
    return made


def convert(source: Path, to: Path, kind: str) -> None:
    """Every tensor of two dimensions in this type, the others in float32; all metadata but the type as it is."""
    import gguf

    reader, wanted = gguf.GGUFReader(source), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(to, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner: Any = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        as_type = wanted if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
