"""python -m fastserve.gateway.models.fetch REPO FILE FOLDER: a download from the hub, told in JSON lines on stdout.

FILE: one file of it, "" for the safetensors, configuration and tokenizer. FOLDER: where to, "" for the hub's cache.
Lines: {"total", "done"} in bytes, at last {"path"} or {"error"}. It is a process of its own: to end it is to cancel,
and what it has by then stays, whole files and the beginning of others, for the next one to go on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tqdm.std import tqdm

from fastserve.processes.parent import end_with_parent

PATTERNS: Final = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*",
)  # fmt: skip
"""What a model is made of. No pickles (.bin, .pt, ...), which can run code, and no code (.py)."""
NEVER: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.py", "consolidated*", "*/*")
"""Subfolders, and what is called consolidated, hold the same weights once more."""
WEIGHTS: Final = (".safetensors", ".gguf")
PARTIAL: Final = ".incomplete"
SPARE: Final = 64 << 20
"""Bytes of the disk that stay free."""
EVERY_S: Final = 0.1
CHUNK: Final = 1 << 20
"""Bytes between two words about the progress, and what a download that is ended may lose."""
SHA256: Final = 64
"""Characters of an etag that is a sum of the file."""
GB: Final = 1e9


class FetchError(RuntimeError):
    """What is wrong, and what to do, in one line."""


class Progress:
    """Bytes that are there, of all that will be; told at most every EVERY_S."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self._told = 0.0

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._told > EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        say(total=self.total, done=min(self.done, self.total))


class Bar(tqdm):  # type: ignore[misc]  # it has no types
    """What huggingface_hub takes for a progress bar. It draws nothing; the one of bytes that are written is told."""

    progress: Progress

    def __init__(self, *args: Any, **more: Any) -> None:
        more["disable"] = False
        self.tells = more.get("unit") == "B" and not str(more.get("desc", "")).startswith("Downloading")
        super().__init__(*args, **more)

    def update(self, n: float | None = 1) -> bool | None:
        if self.tells:
            self.progress.add(int(n or 0))
        found: bool | None = super().update(n)
        return found

    def display(self, *_: Any, **__: Any) -> None:
        pass

    def close(self) -> None:
        self.disable = True


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def fetch(repo: str, file: str, folder: Path | None, revision: str | None = None) -> Path:
    """Where it is, once it is there. revision: a branch, tag or commit (the main branch). Raises FetchError."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    where: dict[str, Any] = {"revision": revision} | ({} if folder is None else {"local_dir": str(folder)})
    which: dict[str, Any] = {"allow_patterns": [file]} if file else {
        "allow_patterns": list(PATTERNS), "ignore_patterns": list(NEVER)
    }  # fmt: skip
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    Bar.progress = progress = Progress()
    try:
        planned = hub.snapshot_download(repo, dry_run=True, tqdm_class=Bar, **where, **which)
        _check(repo, file, [each.filename for each in planned])
        progress.total = sum(each.file_size or 0 for each in planned)
        todo = [each for each in planned if each.will_download]
        progress.done = progress.total - sum(each.file_size or 0 for each in todo)
        kept = _resumed(repo, todo, folder, progress)
        progress.tell()
        _check_space(sum(each.file_size or 0 for each in todo) - kept, folder or Path(constants.HF_HUB_CACHE))
        found = Path(hub.snapshot_download(repo, tqdm_class=Bar, **where, **which))
    except Exception as error:  # of its HTTP client's, which are of no common kind, too
        raise error if isinstance(error, FetchError) else FetchError(explained(error, repo)) from error
    for left in _partials(repo, folder):
        left.unlink(missing_ok=True)
    progress.done = progress.total
    progress.tell()
    return found / file if file else found


def explained(error: BaseException, repo: str) -> str:
    """One line for what huggingface_hub raised, with what to do."""
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    instead = "copy a model's folder into --models-dir, or name one in --models FILE"
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(each, errors.GatedRepoError):
            return f"{repo} is gated: accept its terms at {ENDPOINT}/{repo}, and set HF_TOKEN where the gateway starts"
        if isinstance(each, errors.RepositoryNotFoundError) or status in (401, 403):
            return f"there is no model {repo} at {ENDPOINT}, or it is private: look at its name, or set HF_TOKEN"
        if isinstance(each, errors.OfflineModeIsEnabled):
            return f"{repo} cannot be fetched, since HF_HUB_OFFLINE is set: unset it, or {instead}"
        if isinstance(each, errors.HfHubHTTPError) and status is not None:
            return f"{repo}: {ENDPOINT} answered with status {status}: try again later"
        if type(each).__module__.startswith(("httpx", "httpcore", "socket")) or isinstance(each, ConnectionError):
            return f"{repo} cannot be fetched: {ENDPOINT} cannot be reached ({_short(each)}); connect, or {instead}"
    return f"{repo} cannot be fetched: {_short(error)}"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check(repo: str, file: str, names: Iterable[str]) -> None:
    """Raises FetchError for what holds no weights that may be read."""
    if not any(name.endswith(WEIGHTS) for name in names):
        import huggingface_hub as hub

        there = hub.list_repo_files(repo)
        if file:
            files = ", ".join(each for each in there if each.endswith(".gguf")) or "none"
            raise FetchError(f"{repo} has no file {file}; of GGUF it has {files[:300]}")
        gguf = next((each for each in there if each.endswith(".gguf")), "")
        pickle = next((each for each in there if each.endswith(".bin")), "")
        hint = (
            f"give one of its GGUF files, as {repo}:{gguf}" if gguf
            else f"it has {pickle}, a pickle, which can run code: convert it to safetensors" if pickle
            else "it is no language model of transformers"
        )  # fmt: skip
        raise FetchError(f"{repo} has no safetensors; {hint}")


def _check_space(need: int, folder: Path) -> None:
    place = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    free = shutil.disk_usage(place).free
    if need + SPARE > free:
        raise FetchError(
            f"it needs {need / GB:.2f} GB more, and the disk of {folder} has {free / GB:.2f} GB free: free some, or "
            "give another --models-dir"
        )


def _partials(repo: str, folder: Path | None) -> list[Path]:
    """Beginnings of files that an earlier download left, the longest first."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    root = (
        folder / ".cache" / "huggingface" / "download"
        if folder is not None
        else Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    )
    return sorted(root.rglob(f"*{PARTIAL}"), key=lambda each: -each.stat().st_size) if root.is_dir() else []


def _resumed(repo: str, todo: Iterable[Any], folder: Path | None, progress: Progress) -> int:
    """Goes on with the beginnings of files whose sum is known, which huggingface_hub itself begins anew. Returns their
    bytes, those that were there and those that came. A file whose sum is wrong in the end is thrown away.
    """
    partials = _partials(repo, folder)
    if not partials:
        return 0
    import huggingface_hub as hub
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    count = 0
    for each in todo:
        url = hub.hf_hub_url(repo, each.filename, revision=each.commit_hash)
        about = hub.get_hf_file_metadata(url)
        etag, size = about.etag or "", about.size or 0
        left = next((it for it in partials if f"{etag}." in it.name and it.stat().st_size <= size), None)
        if len(etag) != SHA256 or left is None:
            continue
        there = left.stat().st_size
        progress.add(there)
        progress.tell()
        with left.open("r+b") as out:
            out.seek(there)
            http_get(url, out, resume_size=there, headers=build_hf_headers(), expected_size=size, tqdm_class=Bar)
        with left.open("rb") as whole:
            same = hashlib.file_digest(whole, "sha256").hexdigest() == etag
        if not same:
            left.unlink()
            progress.add(-size)
            continue
        final = left.parent / etag if folder is None else folder / each.filename
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(left, final)
        count += size
    return count


def main() -> int:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    end_with_parent()
    repo, file, folder = sys.argv[1:4]
    with contextlib.suppress(BrokenPipeError):
        try:
            say(path=str(fetch(repo, file, Path(folder) if folder else None)))
        except FetchError as error:
            say(error=str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
