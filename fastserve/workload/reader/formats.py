"""What other projects' files are, by their columns: whose unit is known, and which of them are no list of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastserve.workload.errors import TraceError


def plain(name: str) -> str:
    """A column name as it is compared: lower case, letters and digits only."""
    return "".join(c for c in name.lower() if c.isalnum())


@dataclass(frozen=True, slots=True)
class Format:
    name: str
    needs: str
    """Columns by which it is known, all of them."""
    unit: str | None = None
    """Of its arrivals, where the column's name does not say."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field -> columns, where the names alone would not do."""
    whole: bool = False
    """Whether its arrivals are whole numbers; other ones have fractions, and a file without any is another's."""
    failed: str = ""
    """How a request that failed is marked: "output" by an output of 0 tokens, "status" by its status."""
    rounds: bool = False
    """Whether requests of one program wait for one another though no column says so."""
    one_program: bool = False
    """Whether all requests of a file are of one program where no column names it."""
    block: int | None = None
    """Tokens of a block, where the file does not tell and its files have one size."""


FORMATS = (
    Format("BurstGPT", "timestamp request_tokens response_tokens total_tokens", "s", whole=True, failed="output"),
    Format(
        "Bailian",
        "timestamp input_length output_length hash_ids chat_id",
        "s",
        {"id": ("chat_id",), "after": ("parent_chat_id",)},
        block=16,
    ),
    Format("Mooncake sessions", "session_id input_length output_length delay", "ms"),
    Format("Mooncake", "timestamp input_length output_length hash_ids", "ms", whole=True),
    Format("SGLang autobench", "timestamp prompt prompt_len output_len", "ms", whole=True),
    Format(
        "WEKA",
        "id t in out requests think_time hash_id_scope request",
        "s",
        {
            "program": ("id",),
            "after": ("requests",),
            "id": ("request",),
            "tool": ("stop",),
            "scope": ("hash_id_scope",),
        },
    ),
    Format(
        "TraceLab",
        "session_id timing_events input_tokens_total gap tools request",
        columns={
            "arrival": ("timing_events",),
            "prompt": ("input_tokens_total",),
            "think": ("gap",),
            "tool": ("tools",),
            "id": ("request",),
        },
    ),
    Format(
        "TraceLab replay",
        "session_id arrival_time prefix_len_input_len output_len tool_wait_after_ms request",
        "ms",
        {"prompt": ("prefix_len + input_len",), "think": ("tool_wait_after_ms",), "id": ("request",)},
        whole=True,
    ),
    Format("Vidur", "arrived_at num_prefill_tokens num_decode_tokens", "s"),
    Format("splitwise-sim", "arrival_timestamp prompt_size token_size", "s"),
    Format("LLMServingSim", "arrival_time_ns input_toks output_toks"),
    Format("BLIS", "arrival_time_us input_tokens output_tokens num_chunks status", failed="status"),
    Format(
        "Baseten",
        "timestamp_start_unix_ms input_tokens output_tokens poor_man_session_id",
        columns={"program": ("provided_session_id", "poor_man_session_id"), "hash_ids": ("total_hashes",)},
        rounds=True,
    ),
    Format("WEKA requests", "t in out think_time", "s", one_program=True, block=64),
    Format("ours", "arrival_s prompt_tokens output_tokens", columns={"tool": ("tool",), "scope": ("scope",)}),
)
"""The more particular before the more general."""

GIVEN = frozenset({"arrival", "prompt", "output"})
"""Fields that, all named by hand, make any table a list of requests."""

_SESSIONS = (
    ("input_toks sub_requests", "LLMServingSim's agent sessions (requests inside of requests)"),
    ("session_id turns", "conversations with all their turns in one object"),
    ("trace_id spans", "OpenTelemetry spans"),
)
"""Columns and what they are of: closed loops, in which a request's time depends on the answer before it."""


def known(names: Sequence[str]) -> Format | None:
    found = {plain(name) for name in names}
    return next((one for one in FORMATS if {plain(need) for need in one.needs.split()} <= found), None)


def refuse_sessions(names: Sequence[str], path: str) -> None:
    """TraceError for closed loops that cannot be read."""
    found = {plain(name) for name in names}
    for needs, what in _SESSIONS:
        if {plain(need) for need in needs.split()} <= found:
            raise TraceError(
                f"this file holds {what}, which are not read. Write a row a request, with program, think_s (seconds "
                "after the answer before it), prompt tokens and output tokens, or with a parent; or name its columns: "
                "--columns arrival=NAME:s,prompt=NAME,output=NAME",
                path,
            )


def refuse_hourly_counts(names: Sequence[str], path: str) -> None:
    found = {plain(name) for name in names}
    if {"day", "hour", "conversation"} <= found or {"hourstarts", "requests"} <= found:
        raise TraceError(
            "this file counts requests per hour and holds no single request, so it cannot be replayed; "
            "synthesise a trace at the rate of the hour you need (python -m sim.trace synthesise --rate R)",
            path,
        )
