"""The steps of a Dockerfile, run without a container: below a folder instead of /, in an environment of its own.

What needs a container's root is left out: apt-get, users, owners. Everything else runs as it is written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOTED = ("/opt/venv", "/src", "/artifacts", "/state")
"""Paths of the image, which lie below the folder here."""

LEFT_OUT = re.compile(r"^(apt-get|useradd) ")
OWNER = re.compile(r" && chown \S+( \S+)+$")


class Step(NamedTuple):
    kind: str  # FROM, RUN, COPY, ...
    text: str


def parse(text: str) -> list[Step]:
    """Comments and line ends apart. Raises ValueError for what is no step."""
    found = []
    for line in text.replace("\\\n", "").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(FROM|ARG|ENV|RUN|WORKDIR|COPY|USER|EXPOSE|HEALTHCHECK|CMD) (.+)", line)
        if match is None:
            raise ValueError(f"no step: {line}")
        found.append(Step(match[1], match[2]))
    return found


def stage(steps: list[Step], target: str) -> list[Step]:
    """What makes this target, its bases first."""
    stages: dict[str, tuple[str, list[Step]]] = {}
    name = ""
    for step in steps:
        if step.kind == "FROM":
            match = re.fullmatch(r"(\S+) AS (\w+)", step.text)
            assert match is not None
            name = match[2]
            stages[name] = (match[1], [])
        elif name:
            stages[name][1].append(step)
    base, own = stages[target]
    return [*(stage(steps, base) if base in stages else []), *own]


class Image:
    """folder: stands for /. args: given to the build. What CMD says is `command`, the health check `health`."""

    def __init__(self, folder: Path, clone: Path, ignored: str, args: dict[str, str]) -> None:
        self.folder, self.clone, self.args = folder, clone, args
        self.lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
        self.environment = {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        passed = ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "LANG", "TMPDIR")
        self.environment |= {name: os.environ[name] for name in passed if name in os.environ}
        self.where = folder
        self.command: list[str] = []
        self.health: list[str] = []
        self.user = ""
        self.ran: list[str] = []

    def rooted(self, text: str) -> str:
        return re.sub(rf"(?<![\w.])({'|'.join(ROOTED)})(?![\w-])", lambda match: f"{self.folder}{match[1]}", text)

    def build(self, steps: list[Step]) -> None:
        for step in steps:
            getattr(self, f"_{step.kind.lower()}")(step.text)

    def _arg(self, text: str) -> None:
        name, _, default = text.partition("=")
        value = self.args.get(name, default if "=" in text else None)
        if value is not None:
            self.environment[name] = value

    def _env(self, text: str) -> None:
        for pair in text.split():
            name, _, value = pair.partition("=")
            self.environment[name] = self.rooted(value).replace("$PATH", self.environment["PATH"])

    def _run(self, text: str) -> None:
        if LEFT_OUT.match(text):
            return
        text = OWNER.sub("", text)
        cached = {name: value for name, value in self.environment.items() if not name.endswith("_NO_CACHE")
                  and name != "PIP_NO_CACHE_DIR"}  # fmt: skip
        done = subprocess.run(
            ["bash", "-euc", self.rooted(text)], cwd=self.where, env=cached | {"HOME": os.environ["HOME"]},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        self.ran.append(text)

    def _workdir(self, text: str) -> None:
        self.where = Path(self.rooted(text))
        self.where.mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        *sources, target = text.split()
        for source in sources:
            assert not self.is_ignored(source), f"COPY {source}: .dockerignore leaves it out"
            origin, place = self.clone / source, self.where / target
            if origin.is_dir():
                shutil.copytree(origin, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                (place if target.endswith("/") or target == "." else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, place)

    def is_ignored(self, path: str) -> bool:
        """As Docker reads the file: the last line that fits decides."""
        ignored = False
        for line in self.lines:
            pattern = line.removeprefix("!")
            if fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
                ignored = not line.startswith("!")
        return ignored

    def _user(self, text: str) -> None:
        self.user = text

    def _expose(self, text: str) -> None:
        assert all(port.isdecimal() for port in text.split())

    def _healthcheck(self, text: str) -> None:
        self.health = json.loads(text.partition(" CMD ")[2])

    def _cmd(self, text: str) -> None:
        self.command = [self.rooted(word) for word in json.loads(text)]
