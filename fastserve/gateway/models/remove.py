"""Takes a model that was downloaded from the disk: its folder or file below --models-dir, or the hub's cache of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastserve.gateway.models.entry import Entry, hub_id
from fastserve.gateway.models.pull import BOOKS, note_of


def remove(entry: Entry, root: Path | None) -> None:
    """root: --models-dir. Raises ValueError for what is not below it, or OSError."""
    if entry.place is None or root is None:
        _remove_cached(hub_id(entry.name)[0])
        return
    place, root = entry.place.resolve(strict=True), root.resolve()
    if not place.is_relative_to(root) or place == root:
        raise ValueError(f"{place} is not below {root}")
    if place.is_file():
        place.unlink()
        note_of(place).unlink(missing_ok=True)
        if not any(place.parent.glob("[!.]*")):  # the last of its repository
            shutil.rmtree(place.parent / BOOKS.parts[0], ignore_errors=True)
    else:
        shutil.rmtree(place)
    for above in place.parents:
        if above == root or any(above.iterdir()):
            break
        above.rmdir()


def _remove_cached(repo: str) -> None:
    from huggingface_hub import constants, scan_cache_dir

    cache = scan_cache_dir(constants.HF_HUB_CACHE)
    revisions = [each.commit_hash for it in cache.repos if it.repo_id == repo for each in it.revisions]
    cache.delete_revisions(*revisions).execute()
