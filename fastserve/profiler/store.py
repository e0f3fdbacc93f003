"""Stored profiles: measured Hardware in the cache folder, keyed by everything that its times depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.cache_folder import cache_folder
from fastserve.hardware import Hardware, load_hardware


def profile_path(facts: Mapping[str, Any]) -> Path:
    """Path of the profile of a backend with these facts (engine.backend.Profiled); the file name is their hash."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return cache_folder() / "profiles" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def stored(facts: Mapping[str, Any]) -> Hardware | None:
    """The stored profile; None if there is none. ValueError for a damaged file."""
    path = profile_path(facts)
    return load_hardware(path) if path.is_file() else None


def store(facts: Mapping[str, Any], hardware: Hardware) -> Path:
    """Stores a profile. OSError where the cache folder cannot be written."""
    path = profile_path(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    hardware.save(draft)
    draft.replace(path)
    return path
