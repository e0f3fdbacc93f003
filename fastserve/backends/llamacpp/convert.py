"""Models as GGUF files: llama.cpp's own script reads transformers' folders, its library quantises.

The script is in the sources of llama-cpp-python and not in its wheel: the sources of the installed version are fetched
once into the cache folder, unless a checkout of llama.cpp is named.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from fastserve.backends.llamacpp.library import last_error, library
from fastserve.backends.llamacpp.source import file_of
from fastserve.cache_folder import cache_folder
from fastserve.models.folder import check_tokenizer, check_weights, find_folder
from fastserve.models.gguf_file import find_gguf
from fastserve.models.made_folder import make_folder
from fastserve.named_models import EMBEDDED

LOG = logging.getLogger("fastserve")

SCRIPT: Final = "convert_hf_to_gguf.py"
PARTS: Final = (SCRIPT, "conversion", "gguf-py")
"""Of llama.cpp's sources, what the script consists of."""

WRITTEN: Final = ("f32", "f16", "bf16", "q8_0")
"""Types that the script writes; the others are made of f32."""

TYPES: Final = {
    "f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_k_s": 16, "q5_1": 9, "q5_0": 8,
    "q4_k_m": 15, "q4_k_s": 14, "q4_1": 3, "q4_0": 2, "q3_k_l": 13, "q3_k_m": 12, "q3_k_s": 11, "q2_k": 10,
}  # fmt: skip
"""Name -> llama.cpp's number of it (llama_ftype)."""

FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Of a model on the hub, what is fetched."""

LAST_LINES: Final = 15
"""Of the script's output, in the message of a failure."""


def convert(model: str, out: Path | None, quantize: str | None, source: Path | None = None) -> Path:
    """model: a GGUF file or a name of one (quantised again), a folder of transformers, an id of the hub. out: the file
    (None: beside the name of the model, in this folder). source: a checkout of llama.cpp. Returns the file.
    """
    library()
    kind = quantize or "f16"
    given = EMBEDDED if model == EMBEDDED else find_gguf(model)
    if out is None:
        out = Path(f"{Path(model.rpartition(':')[2]).name.removesuffix('.gguf')}-{kind}.gguf")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name the file, as {out / 'model.gguf'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as room:
        made = Path(room) / "made.gguf"
        if given is not None:
            _quantise(file_of(model), made, kind)
        elif kind in WRITTEN:
            _from_transformers(_folder(model), made, kind, source)
        else:
            whole = Path(room) / "whole.gguf"
            _from_transformers(_folder(model), whole, "f32", source)
            _quantise(whole, made, kind)
        made.replace(out)
    return out


def _folder(model: str) -> Path:
    found = find_folder(model)
    if found is None:
        from huggingface_hub import snapshot_download

        try:
            found = Path(snapshot_download(model, allow_patterns=list(FILES)))
        except Exception as error:
            raise ValueError(f"{model} cannot be fetched: {' '.join(str(error).split())[:300]}") from error
    check_weights(found, model)
    check_tokenizer(found, model)
    return found


def _from_transformers(folder: Path, out: Path, kind: str, source: Path | None) -> None:
    script = (source or _sources()) / SCRIPT
    if not script.is_file():
        raise ValueError(f"there is no {script}: name a checkout of llama.cpp")
    command = [sys.executable, str(script), str(folder), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0 or not out.is_file():
        said = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise ValueError(f"llama.cpp's {SCRIPT} cannot convert {folder}:\n{said}")


def _quantise(file: Path, out: Path, kind: str) -> None:
    api = library()
    settings = api.llama_model_quantize_default_params()
    settings.ftype = TYPES[kind]
    settings.allow_requantize = True
    settings.nthread = os.cpu_count() or 1
    if api.llama_model_quantize(str(file).encode(), str(out).encode(), settings) != 0:
        raise ValueError(f"llama.cpp cannot make {kind} of {file}: {last_error()}")


def _sources() -> Path:
    """The script's sources of the installed version, in the cache folder, fetched now unless they are there."""
    from importlib.metadata import version

    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    home = cache_folder() / f"llama.cpp-{version('llama-cpp-python')}"

    def whole(folder: Path) -> bool:
        return all((folder / part).exists() for part in PARTS)

    def fetch(folder: Path) -> None:
        LOG.warning("fetching the sources of %s for llama.cpp's %s (some 80 MB, once)", package, SCRIPT)
        with tempfile.TemporaryDirectory() as room:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
                       "--no-deps", "--no-binary", ":all:", "--dest", room, package]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            archives = list(Path(room).glob("*.tar.gz"))
            if done.returncode != 0 or not archives:
                raise ValueError(
                    f"the sources of {package} cannot be fetched, so name a checkout of llama.cpp with --source:\n"
                    f"{done.stdout[-1000:]}"
                )
            _unpack(archives[0], folder)

    if not whole(home):
        make_folder(home, fetch, whole)
    return home


def _unpack(archive: Path, folder: Path) -> None:
    """The script's parts of llama-cpp-python's sources."""
    folder.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            if path.parts[1:3] == ("vendor", "llama.cpp") and path.parts[3:4] and path.parts[3] in PARTS:
                member.name = str(PurePosixPath(*path.parts[3:]))
                packed.extract(member, folder, filter="data")
    shutil.rmtree(folder / "gguf-py" / "tests", ignore_errors=True)
