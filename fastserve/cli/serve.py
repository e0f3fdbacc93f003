"""`fastserve serve`: the HTTP server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fastserve.backends.options import MODELS, OPTIONS, SECRETS
from fastserve.cli.arguments import flags
from fastserve.importing import extra
from fastserve.named_models import at_hand
from fastserve.sched.config import choices

MANY = tuple(name for name, option in OPTIONS.items() if option.kind is tuple)
REPEATED = ("set", "observer", "api_key", "required_scopes", "allowed_hosts", "cors_origins", *MANY)
GROUPS = {
    "model": "model",
    "policy": "scheduler",
    "config": "server",
    "max_new_tokens": "request defaults (native routes)",
    "api_key": "authentication and limits",
    "metrics": "monitoring",
}
"""The first field of each group of flags -> its heading."""
FAILED, USAGE, INTERRUPTED = 1, 2, 130
INSTEAD = {
    "api_key": "put one TOKEN or TOKEN CLIENT a line into a file that only you can read, and give --api-key-file FILE",
    "hf_token": "leave the flag out and set HF_TOKEN in the environment",
    **{name: f"leave the flag out and set FASTSERVE_{name.upper()} in the environment" for name in SECRETS},
}
"""Secret -> what to do instead of writing it on the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of FastServeConfig, under its own name with dashes."""
    try:
        from fastserve.server.config.aliases import ALIASES
        from fastserve.server.config.settings import FastServeConfig
    except ModuleNotFoundError as error:
        sys.exit(f"fastserve serve: error: {error.name} is not installed; {extra('server')}")
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110)
    parser.add_argument("--show-config", action="store_true", help="print every setting and where it came from; stop")
    group: Any = parser
    others = {other: name for other, name in ALIASES.items() if other != "cache_size"}
    for name, field in FastServeConfig.model_fields.items():
        if name in GROUPS:
            group = parser.add_argument_group(GROUPS[name])
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif name in REPEATED:
            options.update(action="append", metavar="KEY=VALUE" if name == "set" else "TEXT")
        else:
            options["metavar"] = _choices(name, field.annotation) or _written(field.annotation)
        shown = at_hand() if name == "model" else field.get_default(call_default_factory=True)
        text = (field.description or "").replace("%", "%%")
        if shown not in (None, (), {}, False, ""):
            text += f" (default: {', '.join(shown) if isinstance(shown, tuple) else shown})"
        group.add_argument(*flags(name, others), help=text, **options)
        if name == "kv_cache_gib":
            group.add_argument(
                "--cache-size",
                metavar="MIB",
                default=argparse.SUPPRESS,
                help="device KV pool in MiB, instead of --kv-cache-gib",
            )


def _written(annotation: Any) -> str:
    """How a value of this type is shown: N, PATH, else VALUE; of a union the first that is known."""
    if annotation in (int, float):
        return "N"
    if annotation is Path:
        return "PATH"
    return next((shown for part in get_args(annotation) if (shown := _written(part)) != "VALUE"), "VALUE")


def _choices(name: str, annotation: Any) -> str:
    """Choices as metavar; empty where they are not known. The settings validate the value."""
    valid = choices(name) or (get_args(annotation) if get_origin(annotation) is Literal else ())
    return f"{{{','.join(valid)}}}" if valid else ""


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Returns 0 after a clean shutdown, 1 if model or port fail, 2 for invalid settings."""
    from fastserve.server.config.settings import FastServeConfig, explain

    given = {name: value for name, value in vars(args).items() if name not in ("command", "show_config")}
    try:
        config = FastServeConfig(**given)
        if config.backend in MODELS and "model" not in config.model_fields_set:
            config = config.model_copy(update={"model": at_hand()})
        if args.show_config:
            for name, value, origin in config.shown(given):
                print(f"{name:24} {value:32} {origin.replace('argument', 'command line')}")
            return 0
    except ValueError as error:
        return _failed(explain(error, given), USAGE)
    for name, instead in INSTEAD.items():
        if name in given:
            print(f"fastserve serve: warning: whoever lists the processes of this machine (ps) can read "
                  f"--{name.replace('_', '-')}: {instead}", file=sys.stderr)  # fmt: skip
    try:
        from fastserve.server.run import FastServeServer, StartError

        FastServeServer(config).run()
    except StartError as error:
        return _failed(str(error), FAILED)
    except KeyboardInterrupt:  # during loading of the model
        print("fastserve serve: interrupted before it served", file=sys.stderr)
        return INTERRUPTED
    return 0


def _failed(message: str, status: int) -> int:
    print(f"fastserve serve: error: {message}", file=sys.stderr)
    return status
