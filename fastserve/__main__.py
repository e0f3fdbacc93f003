"""The command line: `fastserve COMMAND ...`. A command's module is imported when the command is chosen."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import fastserve

BROKEN_PIPE = 141
"""Exit status when the reader of the output has exited: 128 + SIGPIPE."""
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""


class Command(NamedTuple):
    """module: has add_arguments(parser) and run(args) -> exit status. One with REST takes what stands behind a lone --,
    for another program, as args.rest; REST is what is said where that was written before it.
    """

    module: str
    about: str


COMMANDS: dict[str, Command] = {
    "check": Command(
        "fastserve.cli.check",
        "check that a policy or a router keeps the contract: exits 0 if it does, 1 if not, with what to change",
    ),
    "bench": Command(
        "fastserve.cli.bench",
        "benchmark a server: send a trace or a dataset on schedule (open loop) and measure the responses",
    ),
    "chat": Command(
        "fastserve.cli.chat", "talk in the terminal, to a model in this process or to a running server (--url)"
    ),
    "generate": Command("fastserve.cli.generate", "generate text for prompts, on a live engine in this process"),
    "profile": Command(
        "fastserve.cli.profile", "measure iteration times on this machine, for policies and for the simulator"
    ),
    "convert": Command(
        "fastserve.cli.convert", "a model as a file of another backend's (GGUF, ONNX), in fewer bits if asked, compared"
    ),
    "ab": Command(
        "fastserve.cli.ab", "replay one trace under several policies on live servers, alternating, and compare"
    ),
    "serve": Command(
        "fastserve.cli.serve", "HTTP server: OpenAI's routes and native ones, metrics and a live dashboard"
    ),
    "gateway": Command(
        "fastserve.cli.gateway",
        "many servers behind one address: any model of theirs by name, by a router of your choice",
    ),
    "deploy": Command(
        "fastserve.cli.deploy", "an application in YAML as a Dockerfile, a compose file or Kubernetes manifests"
    ),
    "worker": Command(
        "fastserve.cli.worker", "run the jobs of a queue in Redis (serve --queue) on a server, across machines"
    ),
    "vllm": Command("fastserve.cli.vllm", "vLLM's own server, where a policy of your choice decides who goes first"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns its exit status; usage errors exit with 2.

    130 after Ctrl-C, 141 with a closed output pipe.
    """
    atexit.register(gc.freeze)  # else the interpreter's last collections walk all of torch's objects, for seconds
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # while a command's modules are imported, or where it has no last words of its own
        print("fastserve: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        try:
            print(flush=True)  # fails again if the broken pipe is the output and not a connection of the command
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
            return BROKEN_PIPE
        raise


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="fastserve", description="A testbed for LLM-serving schedulers.", allow_abbrev=False
    )
    shown = f"fastserve {fastserve.__version__}" if "--version" in words else ""  # slow to import
    parser.add_argument("--version", action="version", version=shown)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    module = None
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.about, description=command.about, allow_abbrev=False)
        if name == chosen:
            module = importlib.import_module(command.module)
            module.add_arguments(own)
    hint = getattr(module, "REST", None)
    cut = words.index("--") if hint and "--" in words else len(words)
    args, unknown = parser.parse_known_args(words[:cut])
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}" + (f" ({hint})" if hint else ""))
    if hint:
        args.rest = words[cut + 1 :]
    assert module is not None, "argparse lets nothing else pass"
    status: int = module.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
