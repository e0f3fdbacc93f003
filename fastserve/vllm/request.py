"""What a vLLM request tells our Scheduler: the Job that stands for it, its tokens, the names of its blocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from fastserve.sched.checks import LONGEST_S, MOST
from fastserve.sched.job import NEVER, Job

log = logging.getLogger("vllm.fastserve")

FINISHES: Final = {
    "FINISHED_ABORTED": "cancelled", "FINISHED_ERROR": "error", "FINISHED_LENGTH_CAPPED": "length",
}  # fmt: skip
"""vLLM's status -> the word in our records; any other end is "stop"."""


class Reader:
    """Makes Jobs. unit: tokens of a block that vLLM's prefix cache knows by name; 0 where the Scheduler does not follow
    it. needs_guess: of the policy. counts: the adapter's.
    """

    def __init__(self, needs_guess: bool, unit: int, counts: dict[str, Any], next_id: int = 0) -> None:
        self.needs_guess = needs_guess
        self.unit = unit
        self.counts = counts
        self.next_id = next_id
        self.complained: set[str] = set()

    def job(self, request: Any, arrival: int) -> Job:
        """arrival: ns. A fact that is none is said once and left out: no error here may end the engine's process."""
        told = request.sampling_params.extra_args if request.sampling_params is not None else None
        if not isinstance(told, Mapping):
            told = {}
        guess = self._guess(request, told) if self.needs_guess else None
        seconds = self._number(request, told, "slo")
        deadline = NEVER if seconds is None else arrival + round(min(seconds, LONGEST_S) * 1e9)
        priority = self._number(request, told, "priority", least=-MOST)
        job = Job(
            self.next_id,
            arrival,
            request.num_prompt_tokens,
            request.max_tokens,
            _text(told.get("client")),
            _text(told.get("program")),
            max(-MOST, min(request.priority if priority is None else round(priority), MOST)),
            deadline,
            guess,
            names(request, 0, request.num_prompt_tokens // self.unit) if self.unit else (),
            _text(told.get("tool")),
            told.get("final") in (True, 1, "true"),
        )
        self.next_id += 1
        return job

    def _guess(self, request: Any, told: Mapping[str, Any]) -> int:
        """max_tokens where there is no usable one."""
        tokens = self._number(request, told, "guess", least=1)
        if tokens is not None:
            return round(min(tokens, MOST))
        self.counts["unguessed"] += 1
        self._once("no guess", "a request has no guess of its output that can be used, and the policy needs one: "
                   "its max_tokens stands for it")  # fmt: skip
        return int(request.max_tokens)

    def _number(self, request: Any, told: Mapping[str, Any], name: str, least: float = 0) -> float | None:
        value = told.get(name)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isfinite(number) and number >= least and not isinstance(value, bool):
            return number
        self._once(
            name, f"{name}={_shown(value)} of request {request.request_id} is no number from {least:g} on: left out"
        )
        return None

    def _once(self, what: str, text: str) -> None:
        if what not in self.complained:
            self.complained.add(what)
            log.warning("%s (said once)", text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _shown(value)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # its own, or an integer with more digits than Python writes out
        return f"a {type(value).__name__}"


def names(request: Any, start: int, end: int) -> Sequence[int]:
    """Of its full blocks from `start` up to `end`: 63 bits of vLLM's hashes, which name content and all before it."""
    return [int.from_bytes(name[:8], "big") >> 1 for name in request.block_hashes[start:end]]


def tokens_of(request: Any) -> int | None:
    """Output tokens, one that is in flight counted ahead; None while it is not known what will come of those in flight
    when it was preempted.
    """
    made: int = request.num_output_tokens
    if request.is_finished():
        return made
    if request.num_stale_output_tokens and not request.drop_stale_output:
        return None
    return made + int(request.num_output_placeholders > 0)


def finish_of(request: Any) -> str:
    """The word of a request that vLLM has ended, as our records have it."""
    return FINISHES.get(request.status.name, "stop")
