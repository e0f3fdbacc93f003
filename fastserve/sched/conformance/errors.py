"""A breach of the contract: what was wrong, where, and what to change."""

from __future__ import annotations

import sys
from types import FrameType

from fastserve.sched.job import Job


class ConformanceError(Exception):
    """A policy or a router does not keep the contract; the text says what to change. check: what it failed."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


def raised(error: BaseException) -> str:
    """What was raised, and where."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    at = f" ({where(last.tb_frame, last.tb_lineno)})" if last is not None else ""
    return f"{type(error).__name__}: {error}{at}"


def explained(error: BaseException, needs: frozenset[str]) -> str:
    """raised(), and, for the mistakes that everybody makes once, what to change."""
    text = raised(error)
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], Job):
        text += "; its own dict does not hold that job: note every job in arrive() and forget it in depart() only"
    elif isinstance(error, AttributeError) and "'Job' object" in str(error):
        text += "; a Job is read-only and has no other fields: keep what the policy knows in a dict, keyed by job"
    elif (
        isinstance(error, TypeError)
        and "NoneType" in str(error)
        and "iterable" not in str(error)
        and "guess" not in needs
    ):
        text += '; if this is job.guess: jobs have one only for a policy that says needs = frozenset({"guess"})'
    return text


def where(frame: FrameType, line: int | None = None) -> str:
    """File and line of the innermost frame outside the standard library. line: of `frame`, if not its present one."""
    if line is None:
        line = frame.f_lineno
    while package(frame) in sys.stdlib_module_names and frame.f_back is not None:
        frame = frame.f_back
        line = frame.f_lineno
    return f"{frame.f_code.co_filename.rpartition('/')[2]}, line {line}"


def package(frame: FrameType) -> str:
    """The top-level name of the module whose code this is."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
