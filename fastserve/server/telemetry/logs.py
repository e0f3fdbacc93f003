"""Log formats: one event a line, text or JSON. Prompts and outputs are never logged."""

from __future__ import annotations

import json
import logging
import time
from typing import Any


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts: dict[str, Any] | None = getattr(record, "facts", None)
        text = record.getMessage()
        if facts is not None:
            rest = {name: value for name, value in facts.items() if name not in ("method", "path", "status")}
            text += "".join([f" {name}={value}" for name, value in rest.items() if value is not None])
        line = f"{at} {record.levelname.lower():7} {text}"
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


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
        return json.dumps(entry, default=str)


def set_up(level: str, form: str) -> None:
    """Configures the root logger, to standard error. level: debug, info, warning or error. form: text or json."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio", "filelock", "urllib3", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING if level != "debug" else logging.INFO)
