"""Stored profiles: measured Hardware by all that its times depend on, found again at the next load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.cache_folder import cache_folder
from fastserve.hardware import Hardware, load_hardware


def profile_path(facts: Mapping[str, Any]) -> Path:
    """Where the profile of a body with these facts is kept: see engine.backend.Profiled. The name is their hash."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return cache_folder() / "profiles" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def stored(facts: Mapping[str, Any]) -> Hardware | None:
    """The profile that was stored for it here; None if there is none. ValueError for a file that is broken."""
    path = profile_path(facts)
    return load_hardware(path) if path.is_file() else None


def store(facts: Mapping[str, Any], hardware: Hardware) -> Path:
    """Keeps it for later loads. OSError where the cache folder cannot be written."""
    path = profile_path(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    hardware.save(draft)
    draft.replace(path)
    return path
