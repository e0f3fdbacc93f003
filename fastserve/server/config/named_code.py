"""What in a .env names code: the file is read from the current folder, which may be somebody else's.

Code is what a setting imports (module:Class, ./file.py:Class), a chat template (Jinja is code), code that comes with
weights, and a settings file that names any of these. A flag or the environment may name it, and may let .env do so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastserve.importing import SUFFIX
from fastserve.server.config import yaml_file
from fastserve.server.config.dialect import Dialect

ALLOWED = "dotenv_code"
"""The setting that lets .env name code; .env itself cannot give it."""


def refuse(
    found: Mapping[str, tuple[str, Any]], above: Mapping[str, Any], known: Iterable[str], dialect: Dialect
) -> None:
    """found: field -> (variable, value) of .env. above: what wins over it. Raises ValueError."""
    if ALLOWED in found:
        raise ValueError(f".env: {found[ALLOWED][0]} cannot be given there: it is for the command line or environment")
    if is_true(above.get(ALLOWED)):
        return
    said = {field: value for field, (_, value) in found.items() if field not in above}
    for field, value in said.items():
        if is_code(field, value, above, dialect):
            raise ValueError(_message(f"{found[field][0]}={value}"))
    if path := said.get("config"):
        for field, (key, value) in yaml_file.read(Path(path), known, dialect).values.items():
            if field not in above and field not in said and is_code(field, value, above, dialect):
                raise ValueError(_message(f"{found['config'][0]}={path}, whose {key}: {value}"))


def is_code(field: str, value: Any, above: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether this value lets code of somebody's own run."""
    if field in dialect.imports:
        each = value if isinstance(value, (list, tuple)) else str(value).split(",")
        return any(_is_import(str(one).strip()) for one in each)
    if field == "model":
        return is_true(above.get("trust_remote_code"))
    return field in dialect.code or (field == "trust_remote_code" and is_true(value))


def is_true(value: Any) -> bool:
    """A switch, also as text."""
    return value is True or str(value).strip().lower() in ("1", "true", "yes", "on", "t", "y")


def _is_import(text: str) -> bool:
    """module:Class or ./file.py:Class, and no name with a number or words behind it (constant:256)."""
    where, _, last = text.rpartition(":")
    return SUFFIX in text or bool(where and (last.isidentifier() or "." in where or "/" in where))


def _message(what: str) -> str:
    shown = " ".join(what.split())
    shown = shown if len(shown) < 100 else f"{shown[:97]}..."
    return (
        f".env: {shown} names code to run, which the .env of a folder may not: give it as a flag or in the "
        f"environment, or allow it with --{ALLOWED.replace('_', '-')}"
    )
