"""Fetch models into folders, once: `python -m fastserve.deploy.fetch URI[=FOLDER] ...`, which ends when all are there.

The artifact stage of a compose file and the init container of a pod. A folder that holds the model already is left as
it is, without a network; of several processes one fetches and the others wait. A download that was cut off goes on.
FOLDER: ARTIFACT_MODEL_DIR of the environment, unless given. URI: ORGANISATION/NAME of a Hugging Face hub, with
@REVISION if wanted; with :FILE.gguf that file alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastserve.atomic_files import OutputError, atomically
from fastserve.importing import extra
from fastserve.named_models import STAGED

MARK = ".fetched.json"
"""In a folder that is complete: what it holds."""


def main(argv: Sequence[str]) -> int:
    """Exits 0 when all are there, 1 where one cannot be had, 2 for what is no URI=FOLDER."""
    usual = os.environ.get(STAGED, "")
    pairs = [(uri, folder or usual) for uri, _, folder in (text.partition("=") for text in argv)]
    folders = [folder for _, folder in pairs]
    if not all(uri and folder for uri, folder in pairs) or len(set(folders)) < max(1, len(folders)):
        print(f"fastserve.deploy.fetch: give URI=FOLDER, once for each model (or URI alone, and {STAGED})",
              file=sys.stderr)  # fmt: skip
        return 2
    for uri, folder in pairs:
        try:
            print(f"{uri}: {fetch(uri, Path(folder))}", flush=True)
        except (OSError, RuntimeError, OutputError) as error:
            print(f"fastserve.deploy.fetch: {error}", file=sys.stderr)
            return 1
        except ModuleNotFoundError as error:
            print(f"fastserve.deploy.fetch: {error.name} is not installed; {extra('gateway')}", file=sys.stderr)
            return 1
    return 0


def fetch(uri: str, folder: Path) -> str:
    """What was done, in words. Raises FetchError (a RuntimeError) or OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        mark = folder / MARK
        if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")).get("uri") == uri:
            return f"is in {folder} already"
        mark.unlink(missing_ok=True)
        _download(uri, folder)
        with atomically(mark) as draft:
            draft.write_text(json.dumps({"uri": uri}) + "\n", encoding="utf-8")
        return f"fetched into {folder}"


def _download(uri: str, folder: Path) -> None:
    from fastserve.gateway.models import fetch as hub

    name, _, file = uri.partition(":")
    name, _, revision = name.partition("@")
    print(f"{uri}: fetching into {folder}", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress is for programs
        hub.fetch(name, file, folder, revision or None)
    if "/" in file:
        (folder / file).replace(folder / Path(file).name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. Where the file system has no locks, all of them: each then fetches the same."""
    with (folder / ".lock").open("a") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            print(f"{folder} cannot be locked ({error}); going on", file=sys.stderr)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
