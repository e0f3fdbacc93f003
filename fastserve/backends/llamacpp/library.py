"""llama-cpp-python's low-level API, loaded once a process, with its log turned into ours."""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from typing import Any, Final

from fastserve.importing import needs

log = logging.getLogger("fastserve.llamacpp")

ERROR: Final = 4
"""Of ggml's levels of log lines."""

MOST_SEQUENCES: Final = 256
"""That one context can hold (LLAMA_MAX_SEQ)."""

_errors: deque[str] = deque(maxlen=3)
"""The last lines that llama.cpp logged as errors."""

_kept: list[Any] = []
"""What C calls back, kept alive."""


@lru_cache(1)
def library() -> Any:
    """The module of C functions. ImportError, with what to install, where the package is not there."""
    needs("llamacpp", "llama_cpp", "llamacpp")
    from llama_cpp import llama_cpp as functions

    def said(level: int, line: bytes, _: object) -> None:
        text = line.decode(errors="replace").strip()
        if text:
            if level == ERROR:
                _errors.append(text)
            log.debug("%s", text)

    _kept.append(functions.llama_log_callback(said))
    functions.llama_log_set(_kept[-1], None)
    functions.llama_backend_init()
    return functions


def last_error() -> str:
    """What llama.cpp said last of what went wrong; it is forgotten then."""
    said = "; ".join(_errors)
    _errors.clear()
    return said or "llama.cpp does not say why"
