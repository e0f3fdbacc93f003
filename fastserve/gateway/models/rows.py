"""What is told of a model: one row, for /status, lists, and clients of other managers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.pull import came_from_hub
from fastserve.gateway.models.served_model import ServedModel, State

MOST_FILES = 10_000


def row(entry: Entry, served: ServedModel | None) -> dict[str, Any]:
    """Of its process: state, requests, memory in bytes, times. What it is: path, backend, adapters."""
    found: dict[str, Any] = {
        "model_id": entry.name,
        "state": str(State.UNLOADED),
        "path": entry.path,
        "backend": entry.backend or "torch",
        "adapters": sorted(entry.adapters),
        "origin": entry.origin,
        "downloaded": entry.origin == "hub" or (entry.place is not None and came_from_hub(entry.place)),
    }
    if served is None:
        return found | {"loaded": False, "requests": 0, "memory": None, "message": None}
    idle = time.monotonic() - served.last_used
    return found | {
        "state": str(served.state),
        "loaded": served.state is State.READY,
        "requests": served.requests,
        "waiting": served.waiting,
        "memory": served.memory,
        "pid": None if served.process is None else served.process.pid,
        "load_seconds": None if served.load_s is None else round(served.load_s, 3),
        "idle_seconds": round(0.0 if served.requests else idle, 3),
        "keep_seconds": served.keep_s,
        "restarts": served.restarts,
        "message": served.failure or None,
    }


def on_disk(entry: Entry) -> dict[str, Any]:
    """size in bytes, modified (s since the epoch), modified_at (ISO) and format; None for what is not on this disk."""
    path = Path(entry.path).expanduser()
    if not path.exists():
        return {"size": None, "modified": None, "modified_at": None, "format": ""}
    files = list(_files(path))
    newest = max((each.stat().st_mtime for each in files), default=path.stat().st_mtime)
    suffixes = {each.suffix for each in files}
    kind = next((suffix[1:] for suffix in (".gguf", ".onnx", ".safetensors") if suffix in suffixes), "")
    return {
        "size": sum(each.stat().st_size for each in files),
        "modified": newest,
        "modified_at": datetime.fromtimestamp(newest, UTC).isoformat(),
        "format": kind,
    }


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for count, each in enumerate(path.rglob("*")):
        if count >= MOST_FILES:
            return
        if each.is_file() and ".cache" not in each.relative_to(path).parts:
            yield each
