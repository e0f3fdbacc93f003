"""Builds kernels.cpp with the system's compiler at first use and finds the library again afterwards.

A built file is named KEY-DIGEST.so. KEY covers the source, the command, the compiler's version and the processor's
features, so that machines with a shared home folder do not use each other's builds. DIGEST covers the file's own bytes:
a damaged file is detected before it is loaded. The file appears under its name by one rename, so
several processes may build at once.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from fastserve.cache_folder import cache_folder

SOURCE = Path(__file__).with_name("kernels.cpp")  # includes the headers beside it
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
SECONDS = 180


class BuildError(Exception):
    """Why there is no library, in one sentence."""


def compiler() -> list[str]:
    """$CXX (options in it come last, and win), else the first of g++, c++ on the path. Raises BuildError: none."""
    if own := shlex.split(os.environ.get("CXX", "")):
        return own
    for name in ("g++", "c++"):
        if found := shutil.which(name):
            return [found]
    raise BuildError("no C++ compiler was found: install g++, or name one in CXX")


def library() -> Path:
    """The built library, built now if it is not in the cache folder. Raises BuildError."""
    program, *options = compiler()
    command = [program, *FLAGS, *options]
    key = hashlib.sha256(
        "\0".join([*_texts(), " ".join(command), _version(program), _processor()]).encode()
    ).hexdigest()[:24]
    folder = cache_folder() / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob(f"{key}-*.so")):
            if file.name == _name(key, file):
                return file
            file.unlink(missing_ok=True)
        return _build(command, key, folder)
    except OSError as error:
        raise BuildError(f"the cache folder {folder} is of no use ({error}): set FASTSERVE_CACHE to another") from None


def _build(command: list[str], key: str, folder: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix="building-", suffix=".so", dir=folder)
    os.close(handle)
    made = Path(name)
    try:
        ended = subprocess.run(
            [*command, str(SOURCE), "-o", str(made)], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        if ended.returncode or not made.stat().st_size:
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise BuildError(f"{command[0]} failed with status {ended.returncode}: {said}")
        return made.replace(folder / _name(key, made))
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not end within {SECONDS} s") from None
    finally:
        made.unlink(missing_ok=True)


def _name(key: str, file: Path) -> str:
    return f"{key}-{hashlib.sha256(file.read_bytes()).hexdigest()[:24]}.so"


def _texts() -> list[str]:
    """The source and its headers."""
    return [file.read_text() for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]


def _version(program: str) -> str:
    try:
        ended = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the compiler {program} does not run: {error}") from None
    return ended.stdout


def _processor() -> str:
    """Model and features of the first processor; what -march=native looks at."""
    lines = {platform.machine(), platform.processor()}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            for line in info:
                name = line.partition(":")[0].strip()
                if name in {"model name", "cpu family", "model", "flags", "Features", "CPU part", "CPU implementer"}:
                    lines.add(line.strip())
                if not line.strip():
                    break
    except OSError:
        lines.add(platform.platform())
    return "\n".join(sorted(lines))
