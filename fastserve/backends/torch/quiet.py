"""What transformers reports while it reads a model: its bars where somebody waits for a download, else nothing."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as their_logging


@contextmanager
def quiet(local: bool) -> Iterator[None]:
    """transformers' bars are shown where there is something to wait for, a download, and somebody to see it; its own
    reports never: what matters of them is said here in a line.
    """
    bars = their_logging.is_progress_bar_enabled() and (local or not sys.stderr.isatty())
    level = their_logging.get_verbosity()
    their_logging.set_verbosity(logging.CRITICAL)
    if bars:
        their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()
