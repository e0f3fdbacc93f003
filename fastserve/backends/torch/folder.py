"""Where a model's files are: a folder, or an id of the hub. Imports nothing heavy: a wrong path is known at once."""

from __future__ import annotations

from pathlib import Path


class ModelNotFoundError(ValueError):
    """There is no such model, or it cannot be read; the message says what is missing."""


def folder_of(name: str) -> Path | None:
    """The folder of a model, None for what is an id. Raises ModelNotFoundError for a path that holds no model."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(f"The folder {name} is no model: it has no config.json.")
        return folder
    if folder.is_file():
        raise ModelNotFoundError(f"{name} is a file: give the folder that holds config.json, weights and tokenizer.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFoundError(f"There is no folder {name}.")
    return None


def look(model: str) -> None:
    """Raises ModelNotFoundError for a path that holds no model."""
    if model != "embedded":
        folder_of(model)
