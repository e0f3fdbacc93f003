"""Fetch models into folders, once: `python -m fastserve.deploy.fetch URI=FOLDER ...`, which ends when all are there.

The artifact stage of a compose file and the init container of a pod. A folder that holds the model already is left as
it is, without a network; of several processes one fetches and the others wait. A download that was cut off goes on.
URI: ORGANISATION/NAME of a Hugging Face hub, with @REVISION if wanted; with :FILE.gguf that file alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastserve.atomic_files import OutputError, atomically
from fastserve.importing import extra

MARK = ".fetched.json"
"""In a folder that is complete: what it holds."""

OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "original/*", "onnx/*")
"""The same weights for other libraries: not fetched where there are safetensors."""


def main(argv: Sequence[str]) -> int:
    """Exits 0 when all are there, 1 where one cannot be had, 2 for what is no URI=FOLDER."""
    pairs = [text.partition("=") for text in argv]
    if not pairs or any(not uri or not folder for uri, _, folder in pairs):
        print("fastserve.deploy.fetch: give URI=FOLDER, once for each model", file=sys.stderr)
        return 2
    for uri, _, folder in pairs:
        try:
            print(f"{uri}: {fetch(uri, Path(folder))}", flush=True)
        except (OSError, ValueError, ImportError, OutputError) as error:
            print(f"fastserve.deploy.fetch: {uri} could not be fetched: {_short(error)}", file=sys.stderr)
            return 1
    return 0


def fetch(uri: str, folder: Path) -> str:
    """What was done, in words. Raises OSError, ValueError or ImportError."""
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        mark = folder / MARK
        if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")).get("uri") == uri:
            return f"is in {folder} already"
        mark.unlink(missing_ok=True)
        revision = _download(uri, folder)
        with atomically(mark) as draft:
            draft.write_text(json.dumps({"uri": uri, "revision": revision}) + "\n", encoding="utf-8")
        return f"fetched into {folder}"


def _download(uri: str, folder: Path) -> str:
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed; {extra('gateway')}") from error
    name, _, file = uri.partition(":")
    name, _, revision = name.partition("@")
    info = HfApi().model_info(name, revision=revision or None)
    files = [each.rfilename for each in info.siblings or ()]
    if file and file not in files:
        held = ", ".join(each for each in files if each.endswith(".gguf")) or "no GGUF file"
        raise ValueError(f"{name} has no file {file}; it has {held}")
    safe = any(each.endswith(".safetensors") for each in files)
    snapshot_download(
        name,
        revision=info.sha,
        local_dir=folder,
        allow_patterns=[file] if file else None,
        ignore_patterns=list(OTHER_WEIGHTS) if safe and not file else None,
    )
    if file and "/" in file:
        (folder / file).replace(folder / Path(file).name)
    return info.sha or ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. Where the file system has no locks, all of them: each then fetches the same."""
    with (folder / ".lock").open("a") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            print(f"{folder} cannot be locked ({error}); going on", file=sys.stderr)
        yield


def _short(error: BaseException) -> str:
    """One line, and what to do where the hub was not reached."""
    text = " ".join(str(error).split())[:400]
    if "HF_HUB_OFFLINE" in text or os.environ.get("HF_HUB_OFFLINE"):
        return f"{text} (HF_HUB_OFFLINE is set)"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
