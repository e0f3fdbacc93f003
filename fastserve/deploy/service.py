"""Start, stop and ask what `fastserve deploy --to local` has written: `python -m fastserve.deploy.service start DIR`.

A process each, in the background, with its log in DIR/log and its number in DIR/run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from fastserve.deploy import ask

FILE = "processes.json"
START_S = 900.0
"""For which a process may take to be ready: a model is loaded, perhaps fetched."""

STOP_S = 40.0  # the server's own drain is 30 s
LAST_LINES = 15
"""Of the log of a process that did not start."""


class ServiceError(RuntimeError):
    """What did not start, and why; shown to the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exits 0; 1 where something does not start, does not run or does not answer."""
    parser = argparse.ArgumentParser(prog="python -m fastserve.deploy.service", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("start", "stop", "status", "test"))
    parser.add_argument("folder", metavar="DIR", type=Path, help="of fastserve deploy --to local")
    args = parser.parse_args(argv)
    try:
        tree = json.loads((args.folder / FILE).read_text(encoding="utf-8"))
    except OSError as error:
        print(f"{args.folder / FILE} cannot be read: {error.strerror}; fastserve deploy --to local writes it",
              file=sys.stderr)  # fmt: skip
        return 1
    service = Service(args.folder, tree)
    try:
        return int({"start": service.start, "stop": service.stop, "status": service.status, "test": service.test}[
            args.what
        ]())  # fmt: skip
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1


class Service:
    """tree: content of FILE."""

    def __init__(self, folder: Path, tree: dict[str, Any]) -> None:
        self.folder, self.tree = folder, tree

    def start(self) -> int:
        """Returns once all are ready. Raises ServiceError, and then none is left running that was not before."""
        begun: list[str] = []
        try:
            for each in self.tree["processes"]:
                if self.running(each["name"]):
                    print(f"{each['name']} runs already")
                    continue
                self._begin(each)
                begun.append(each["name"])
            for each in self.tree["processes"]:
                self._await(each)
        except BaseException:
            for name in reversed(begun):
                self._end(name)
            raise
        print(f"{self.tree['name']} is at {self.tree['url']}")
        return 0

    def stop(self) -> int:
        """The gateway first, so that nothing is sent to what ends."""
        for each in reversed(self.tree["processes"]):
            print(f"{each['name']} {'has ended' if self._end(each['name']) else 'did not run'}")
        return 0

    def status(self) -> int:
        """1 unless all of them run."""
        states = {each["name"]: self.running(each["name"]) for each in self.tree["processes"]}
        for name, process in states.items():
            print(f"{name:24} {f'runs, pid {process.pid}' if process else 'does not run'}")
        return 0 if all(states.values()) else 1

    def test(self) -> int:
        """Asks each route of the application. 1 where one does not answer as it should."""
        faults = 0
        for what, fault in ask.answers(self.tree["url"], self.tree["apis"]):
            print(f"{what}: {fault or 'answers'}")
            faults += bool(fault)
        return 1 if faults else 0

    def running(self, name: str) -> psutil.Process | None:
        """The process, unless its number has become another one's."""
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            kept = json.loads((self.folder / "run" / f"{name}.json").read_text(encoding="utf-8"))
            process = psutil.Process(kept["pid"])
            if process.create_time() == kept["began"] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _begin(self, each: dict[str, Any]) -> None:
        command = list(each["command"])
        if command[0] == "fastserve":
            command[:1] = [sys.executable, "-m", "fastserve"]
        elif shutil.which(command[0]) is None:
            raise ServiceError(f"{each['name']}: {command[0]} is not installed (Debian, Ubuntu: apt-get install redis)")
        for part in ("log", "run", "state"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        if "folder" in each:
            Path(each["folder"]).mkdir(parents=True, exist_ok=True)
        with self._log(each["name"]).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | each.get("environment", {}),
            )  # fmt: skip
        kept = {"pid": process.pid, "began": psutil.Process(process.pid).create_time()}
        (self.folder / "run" / f"{each['name']}.json").write_text(json.dumps(kept), encoding="utf-8")
        print(f"{each['name']} starts, pid {process.pid}, log {self._log(each['name'])}")

    def _await(self, each: dict[str, Any]) -> None:
        """Raises ServiceError where it ends, or is not ready in time."""
        until = time.monotonic() + START_S
        while True:
            if self.running(each["name"]) is None:
                raise ServiceError(f"{each['name']} has ended:\n{self._last(each['name'])}")
            if "ready" not in each or _answers(each["ready"]):
                return
            if time.monotonic() > until:
                raise ServiceError(f"{each['name']} is not ready after {START_S:g} s:\n{self._last(each['name'])}")
            time.sleep(0.2)

    def _end(self, name: str) -> bool:
        """Whether it ran."""
        process = self.running(name)
        if process is not None:
            with contextlib.suppress(psutil.Error):
                process.terminate()
                try:
                    process.wait(STOP_S)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(STOP_S)
        (self.folder / "run" / f"{name}.json").unlink(missing_ok=True)
        return process is not None

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def _last(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
