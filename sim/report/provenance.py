"""Provenance of a result: what is needed to reproduce it."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastserve.hardware.processor import processor
from sim.compiled import brain

PACKAGES = ("fastserve-testbed", "simpy", "numpy", "pandas", "pyarrow", "matplotlib")


def provenance() -> dict[str, object]:
    """Commit, whether the checkout had changes, command, versions, machine and time (UTC); unknown parts are None."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git("rev-parse", "HEAD") or None,
        "dirty": None if changes is None else bool(changes),
        "command": sys.argv,
        "python": platform.python_version(),
        "brain": brain(),
        "versions": {package: _version(package) for package in PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "cpu": processor(),
            "cores": os.cpu_count(),
        },
        # When the result was made belongs beside it; nothing that a replay computes reads it.
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251
    }


def fingerprint(*more: Path) -> str:
    """Hash of the source text that can change a simulated result, and of `more` files: 16 hexadecimal digits."""
    root = Path(__file__).parents[2]
    library = root / "fastserve"
    found = [*(root / "sim").glob("*.py"), *(root / "sim" / "cluster").glob("*.py")]
    for part in ("sched", "routers", "hardware", "speculation", "metrics", "policies", "predictors", "workload"):
        found += [*(library / part).rglob("*.py"), *(library / part).rglob("*.json")]
    digest = hashlib.sha256()
    for path in [*sorted(found), *more]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    """Output of a git command in this checkout; None without git or a checkout."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
