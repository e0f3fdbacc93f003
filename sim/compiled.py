"""The compiled brain, where there is one of this very text: `import sim` uses it, and a result says so.

scripts/compile.py leaves extension modules in build/compiled and, in built.json, the hash of the text they were made
of. Where that is the hash of the checkout's text, imports of these modules find the extensions; all other modules, and
policies of one's own, stay what they are. Extensions and text cannot be mixed, so this must come before the first
import of fastserve: `import sim` above it. FASTSERVE_COMPILED=off does without, for a debugger. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "compiled" / "built.json"
SWITCH = "FASTSERVE_COMPILED"
PROBE = "fastserve.sched.scheduler"


class Finder(MetaPathFinder):
    """Finds the extensions, by module name."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self.files.get(name)
        return None if file is None else spec_from_file_location(name, file)


def digest(root: Path, paths: Iterable[str]) -> str:
    """Of the text of these files, and of the Python that runs them."""
    found = hashlib.sha256(sys.version.encode())
    for path in sorted(paths):
        found.update(path.encode() + b"\0" + (root / path).read_bytes())
    return found.hexdigest()


def stamp(folder: Path, text: str, paths: Iterable[str]) -> None:
    """Writes built.json into `folder`. text: the digest of the files of which its extensions were made."""
    files = {}
    for file in sorted(folder.rglob(f"*{EXTENSION_SUFFIXES[0]}")):
        place = file.relative_to(folder)
        files[".".join([*place.parts[:-1], place.name.removesuffix(EXTENSION_SUFFIXES[0])])] = str(place)
    built = {"text": sorted(paths), "digest": text, "extensions": files}
    (folder / BUILT.name).write_text(json.dumps(built, indent=1) + "\n", encoding="utf-8")


def fresh(built: Path = BUILT, root: Path = ROOT) -> dict[str, Path]:
    """Extension modules of the checkout's text as it is now: name -> file. Empty where there are none."""
    try:
        about = json.loads(built.read_text(encoding="utf-8"))
        if about["digest"] != digest(root, about["text"]):
            return {}
        files = {name: built.parent / file for name, file in about["extensions"].items()}
        return files if all(file.exists() for file in files.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none was built, it is being built, or its text has gone


def use() -> bool:
    """From now on imports find the compiled brain. False: there is none of this text, or it would come too late."""
    if os.environ.get(SWITCH, "") in ("off", "0") or any(isinstance(finder, Finder) for finder in sys.meta_path):
        return runs_compiled()
    files = fresh()
    if not files or not files.keys().isdisjoint(sys.modules):
        return False
    sys.meta_path.insert(0, Finder(files))
    return True


def brain() -> str:
    """Which one this process runs, for its results."""
    return "compiled" if runs_compiled() else "interpreted"


def runs_compiled() -> bool:
    """Is the brain of this process compiled?"""
    module = sys.modules.get(PROBE)
    return module is not None and not str(module.__file__).endswith(".py")
