"""The command line: `fastserve COMMAND ...`. A command's module is imported when the command is chosen."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import fastserve

GONE = 141
"""Exit status when nobody reads the output any more: what a shell shows for SIGPIPE."""


class Command(NamedTuple):
    """module: has add_arguments(parser) and run(args) -> exit status."""

    module: str
    about: str


COMMANDS: dict[str, Command] = {
    "check": Command(
        "fastserve.cli.check", "does a policy keep the contract? exits 0 if it does, 1 if not, and says what to change"
    ),
    "bench": Command(
        "fastserve.cli.bench", "send a trace or a dataset to a server on schedule, and measure what comes back"
    ),
    "generate": Command("fastserve.cli.generate", "prompts in, text out, on the live engine in this process"),
    "profile": Command(
        "fastserve.cli.profile", "measure how long iterations take on this machine, for skip-join and for the simulator"
    ),
    "ab": Command("fastserve.cli.ab", "replay one trace under several policies on live servers, in turns, and compare"),
    "serve": Command(
        "fastserve.cli.serve", "the preemptive engine behind HTTP: OpenAI's routes and our own, and a live page"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status; usage errors exit with 2. A reader that has gone ends it quietly."""
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again if the output is the broken pipe, and no connection of the command's
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
            return GONE
        raise


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="fastserve", description="A testbed for LLM-serving schedulers.", allow_abbrev=False
    )
    said = f"fastserve {fastserve.__version__}" if "--version" in words else ""  # read only when asked for
    parser.add_argument("--version", action="version", version=said)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    module = None
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.about, description=command.about, allow_abbrev=False)
        if name == chosen:
            module = importlib.import_module(command.module)
            module.add_arguments(own)
    args = parser.parse_args(words)
    assert module is not None, "argparse lets nothing else pass"
    status: int = module.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
