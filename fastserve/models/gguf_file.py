"""GGUF files by name: a packaged model, a path, or REPO:FILE of the hub. What is no such file is told in one line.

Nothing heavy is imported. gguf_folder.py makes of a file what transformers reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from fastserve.models.folder import ModelNotFoundError, fault_of
from fastserve.named_models import PACKAGED, how_to_get, packaged_file

SUFFIX: Final = ".gguf"
MAGIC: Final = b"GGUF"

VERSIONS: Final = (2, 3)
"""Of the format."""

HUB: Final = re.compile(r"([\w.-]+/[\w.-]+):([^:]+\.gguf)", re.ASCII)
"""REPO:FILE."""

PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class HubFile(NamedTuple):
    repo: str
    file: str


def find_gguf(name: str) -> Path | HubFile | None:
    """The file that `name` is; None where it can only be something else. Nothing is fetched.

    Raises ModelNotFoundError for a packaged model that is not installed, and for a file that is not there or no GGUF.
    """
    if name in PACKAGED:
        found = packaged_file(name)
        if found is None:
            raise ModelNotFoundError(f"{name} is not installed: {how_to_get(name)}.")
        check_gguf(found, name)
        return found
    path = Path(name).expanduser()
    if path.is_file() and (path.suffix == SUFFIX or _begins(path, MAGIC)):
        check_gguf(path, name)
        return path
    if not name.endswith(SUFFIX) or path.is_dir():
        return None
    if hub := HUB.fullmatch(name):
        return HubFile(hub[1], hub[2])
    if path.is_symlink():
        raise ModelNotFoundError(f"The file {name} is {fault_of(path)}.")
    raise ModelNotFoundError(f"There is no file {name}; one of the hub is named as OWNER/REPO:FILE{SUFFIX}.")


def fetch(found: HubFile, name: str) -> Path:
    """The file in the hub's cache, downloaded now unless it is there. Raises ModelNotFoundError."""
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(found.repo, found.file))
    except Exception as error:
        said = " ".join(str(error).split())
        raise ModelNotFoundError(f"{name} cannot be fetched: {said[:300] or type(error).__name__}") from error
    check_gguf(path, name)
    return path


def check_gguf(path: Path, name: str) -> None:
    """Raises ModelNotFoundError for what the first bytes and the file's name rule out."""
    if fault := fault_of(path):
        raise ModelNotFoundError(f"The file {path.name} of {name} is {fault}.")
    with path.open("rb") as file:
        head = file.read(24)
    version = int.from_bytes(head[4:8], "little")
    if not head.startswith(MAGIC):
        fault = "no GGUF: it does not begin as one"
    elif version & 0xFFFF == 0 and version:
        fault = "GGUF of a big-endian machine, which is not read here"
    elif len(head) < 24:
        fault = "cut short; fetch it again"
    elif version not in VERSIONS:
        fault = f"GGUF of version {version}, and {' and '.join(map(str, VERSIONS))} are read"
    elif (part := PART.search(path.name)) and int(part[2]) > 1:
        fault = f"part {int(part[1])} of {int(part[2])}: join them first (llama.cpp: llama-gguf-split --merge)"
    if fault:
        raise ModelNotFoundError(f"The file {path.name} of {name} is {fault}.")


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
