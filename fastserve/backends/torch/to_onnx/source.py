"""The folder of a model exported to ONNX: the one given, one that was made before, or one made now. Imports no torch.

What was made is found again without torch: its place is named by what it was made of. Where torch is installed, the
versions of all that had a part in it count as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fastserve.backends.torch.to_onnx.manifest import whole
from fastserve.cache_folder import cache_folder
from fastserve.importing import needs
from fastserve.models.embedded import make_embedded
from fastserve.models.folder import ModelNotFoundError, find_folder
from fastserve.models.gguf_file import HubFile, fetch, find_gguf
from fastserve.models.made_folder import make_folder
from fastserve.named_models import EMBEDDED

LOG = logging.getLogger("fastserve")

VERSION: Final = 1
"""To be raised with any change of what is written: folders of other versions are left alone."""

MAKERS: Final = ("torch", "transformers", "onnx", "onnxscript")


def folder_of(name: str, *, trust_remote_code: bool = False) -> Path:
    """The folder with the model's ONNX file. Exporting takes a minute for 135 million parameters, once.

    Raises ModelNotFoundError, what loading the model on the torch backend raises, RefusedModelError for one that cannot
    be exported, ImportError for a package that only an export needs, OSError where there is no room on the disk.
    """
    given = Path(name).expanduser()
    if given.is_dir() and any(given.glob("*.onnx")):
        return given
    content = _content(name)
    stem = Path(name).name.partition(":")[0] or "model"
    key = _digest({**content, "version": VERSION})
    there = find_spec("torch") is not None
    versions = {package: _version(package) for package in MAKERS}
    home = cache_folder() / "onnx" / f"{stem}-{key}-{_digest(versions)[:6]}"
    if not there:
        made = [each for each in home.parent.glob(f"{stem}-{key}-*") if whole(each)]
        if made:
            return max(made, key=lambda each: each.stat().st_mtime)
    if whole(home):
        return home
    for package, extra in (("torch", "engine"), ("transformers", "engine"), ("onnx", "onnx"), ("onnxscript", "onnx")):
        needs("onnx", package, extra)
    from filelock import FileLock

    from fastserve.backends.torch.to_onnx.export import export

    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.parent / f".{home.name}.lock"):  # whoever comes second waits, and finds it made
        if not whole(home):
            LOG.warning("exporting %s to ONNX, once, which takes a minute or more: into %s", name, home)
            facts = {"made_of": content, "versions": versions}
            make_folder(home, lambda folder: export(name, folder, facts, trust_remote_code), whole)
    return home


def _content(name: str) -> dict[str, Any]:
    """What names the weights and all beside them: files with their sizes and times, or a commit of the hub."""
    if name == EMBEDDED:
        return _files(make_embedded())
    file = find_gguf(name)
    if file is not None:
        path = fetch(file, name) if isinstance(file, HubFile) else file
        return {"files": {path.name: _state(path)}}
    folder = find_folder(name)
    if folder is not None:
        return _files(folder)
    needs("onnx", "huggingface_hub", "engine")
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return {"hub": name, "commit": Path(cached).parent.name}
    try:
        return {"hub": name, "commit": HfApi().model_info(name).sha}
    except Exception as error:
        raise ModelNotFoundError(f"{name} is neither a folder here nor a model that can be fetched: {error}") from error


def _files(folder: Path) -> dict[str, Any]:
    files = sorted(each for each in folder.iterdir() if each.is_file() and each.suffix not in (".md", ".txt"))
    return {"files": {each.name: _state(each) for each in files}}


def _state(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
