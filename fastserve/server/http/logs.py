"""Log formats: one event a line, text or JSON. Prompts and outputs are never logged.

Whoever sends a request chooses its path, its id and perhaps its client's name. None of them can end a line, begin
another or move a terminal's cursor: what is not printable is written as its escape (\\n, \\x1b, \\u2028), a value with
a space, a quote or an escape in it is quoted, and lines of an exception are indented.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

MOST = 512
"""Characters of a value in a line of text."""


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts: dict[str, Any] | None = getattr(record, "facts", None)
        if isinstance(record.args, Mapping):
            text = str(record.msg) % {name: word(value) for name, value in record.args.items()}
        else:
            text = record.getMessage()
        text = printable(text)
        if facts is not None:
            rest = {name: value for name, value in facts.items() if name not in ("method", "path", "status")}
            text += "".join([f" {name}={word(value)}" for name, value in rest.items() if value is not None])
        line = f"{at} {record.levelname.lower():7} {text}"
        if record.exc_info:
            line += "".join([f"\n    {printable(each)}" for each in self.formatException(record.exc_info).split("\n")])
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)  # ASCII alone: a line's end of any kind is an escape


def printable(text: str) -> str:
    """Without anything that a terminal or a reader of lines would act upon."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else each.encode("unicode_escape").decode() for each in text])


def word(value: object) -> str:
    """A value as one word of a line: quoted where it would not be one, cut where it is long."""
    text = str(value)
    if len(text) > MOST:
        text = f"{text[:MOST]}..."
    if text and text.isprintable() and not any(each in text for each in " \"'\\"):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class ToStderr(logging.Handler):
    """Writes to what sys.stderr is at that moment, and so holds on to none that somebody has replaced or closed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def set_up(level: str, form: str) -> None:
    """Configures the root logger, to standard error. level: debug, info, warning or error. form: text or json."""
    handler = ToStderr()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio", "filelock", "urllib3", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING if level != "debug" else logging.INFO)
    logging.getLogger("stamina").setLevel(logging.ERROR)  # a retry is told by who asks for it
