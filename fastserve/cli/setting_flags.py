"""Flags of a settings class (HttpSettings and what is made of it), and a command that shows or uses the settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from fastserve.cli.arguments import flags
from fastserve.sched.config import choices

if TYPE_CHECKING:
    from fastserve.server.config.http_settings import HttpSettings

FAILED, USAGE, INTERRUPTED = 1, 2, 130

HTTP_GROUPS = {
    "config": "server",
    "api_key": "authentication and limits",
    "metrics": "monitoring",
}
"""The first field of each group of flags -> its heading: of HttpSettings."""

HTTP_INSTEAD = {
    "api_key": "put one TOKEN or TOKEN CLIENT a line into a file that only you can read, and give --api-key-file FILE",
}
"""Secret -> what to do instead of writing it on the command line."""

REPEATED = ("api_key", "required_scopes", "allowed_hosts", "cors_origins")


def add_flags(
    parser: argparse.ArgumentParser,
    kind: type[HttpSettings],
    groups: Mapping[str, str],
    repeated: Mapping[str, str],
    shown: Mapping[str, Any],
    hidden: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A flag for every field of this class, under its own name with dashes. The groups, by heading.

    groups: the first field of a group -> its heading; one that is named twice is one group. repeated: field that may be
    given more than once -> how a value is written. shown: defaults in the help where they are not the class's own.
    hidden: other names that are no flags.
    """
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110)
    parser.add_argument("--show-config", action="store_true", help="print every setting and where it came from; stop")
    made: dict[str, Any] = {}
    group: Any = parser
    others = {other: name for other, name in kind.dialect.aliases.items() if other not in hidden}
    for name, field in kind.model_fields.items():
        if name in groups:
            heading = groups[name]
            if heading not in made:
                made[heading] = parser.add_argument_group(heading)
            group = made[heading]
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif name in repeated:
            options.update(action="append", metavar=repeated[name])
        else:
            options["metavar"] = _choices(name, field.annotation) or _written(field.annotation)
        usual = shown[name] if name in shown else field.get_default(call_default_factory=True)
        text = (field.description or "").replace("%", "%%")
        if usual not in (None, (), {}, False, ""):
            text += f" (default: {', '.join(usual) if isinstance(usual, tuple) else usual})"
        group.add_argument(*flags(name, others), help=text, **options)
    return made


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


def run_with(
    command: str,
    args: argparse.Namespace,
    kind: type[HttpSettings],
    make: Callable[[dict[str, Any]], Any],
    serve: Callable[[Any], None],
    instead: Mapping[str, str],
) -> int:
    """Serves until stopped, or shows the settings. make: settings of flags. instead: see HTTP_INSTEAD.

    Returns 0 after a clean shutdown, 1 if the start fails, 2 for invalid settings.
    """
    from fastserve.server.http.listener import StartError

    given = {name: value for name, value in vars(args).items() if name not in ("command", "show_config")}
    try:
        config = make(given)
        if args.show_config:
            for name, value, origin in config.shown(given):
                print(f"{name:24} {value:32} {origin.replace('argument', 'command line')}")
            return 0
    except ValueError as error:
        return _failed(command, kind.explain(error, given), USAGE)
    for name, what in instead.items():
        if name in given:
            print(f"fastserve {command}: warning: whoever lists the processes of this machine (ps) can read "
                  f"--{name.replace('_', '-')}: {what}", file=sys.stderr)  # fmt: skip
    try:
        serve(config)
    except StartError as error:
        return _failed(command, str(error), FAILED)
    except KeyboardInterrupt:  # during the start
        print(f"fastserve {command}: interrupted before it served", file=sys.stderr)
        return INTERRUPTED
    return 0


def _failed(command: str, message: str, status: int) -> int:
    print(f"fastserve {command}: error: {message}", file=sys.stderr)
    return status
