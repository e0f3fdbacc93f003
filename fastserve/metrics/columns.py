"""The columns of a record, and the one set of formulas that makes them: from whole numbers, in NumPy, many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLUMNS: dict[str, str] = {
    "id": "i8",
    "arrival": "f8",  # s; all times are seconds from the same origin
    "prompt_tokens": "i8",
    "output_tokens": "i8",  # delivered
    "finish": "O",  # stop, length, truncated, cancelled, rejected, unfinished ...: see finish.py
    "first_token": "f8",  # s; nan if there was none
    "end": "f8",  # s; nan if it has not ended
    "jct_from_arrival": "f8",  # s; of an unfinished job so far, a lower bound; nan if rejected or truncated
    "ttft": "f8",  # s
    "s_per_token": "f8",  # JCT / output tokens: the papers' normalised latency
    "tpot_excl_first": "f8",  # s; nan below two tokens
    "slowdown": "f8",  # JCT / alone
    "alone": "f8",  # s; the same job on an empty machine
    "queued": "f8",  # s before its first place in the batch
    "held_s": "f8",  # s that the policy held it back from admission
    "preempted": "f8",  # s between its visits
    "stalled": "f8",  # s that its batch waited for copies
    "service": "f8",  # s charged
    "largest_gap": "f8",  # s between two of its tokens; nan below two
    "preemptions": "i8",
    "overruled": "i8",  # 1: it joined though it was held back, since nothing ran and nobody would have been woken
    "recomputed_tokens": "i8",
    "cached_tokens": "i8",  # of its prompt, found when it first joined: not computed
    "cached_host_tokens": "i8",  # of these, those that were loaded from the host
    "evicted_tokens": "i8",  # of its prompt, computed by others before and forgotten by then: among recomputed_tokens
    "draft_tokens": "i8",  # guesses of its next tokens that were verified; 0 where nothing is guessed
    "accepted_tokens": "i8",  # of these, those that were right
    "swapped_out_bytes": "i8",
    "swapped_in_bytes": "i8",
    "client": "O",
    "program": "O",
    "turn": "i8",  # its place among its program's requests, from 1; 0 where nobody knows
    "priority": "i8",
    "slo_class": "O",  # class of service in the trace; "" if none, and where nobody knows
    "ttft_slo": "f8",  # s; nan if none
    "tpot_slo": "f8",
    "e2e_slo": "f8",
}
"""Column -> numpy kind; units beside it."""

Columns = dict[str, np.ndarray[Any, np.dtype[Any]]]
Slo = tuple[float, float, float]
NO_SLO: Slo = (float("nan"), float("nan"), float("nan"))
NUMBERS = (
    "id", "arrival", "prompt", "tokens", "finish", "first", "now", "alone", "queued", "preempted", "stalled", "served",
    "gap", "preemptions", "computed", "cached", "loaded", "blocks_out", "blocks_in", "priority", "held", "overruled",
    "turn", "drafted", "accepted",
)  # fmt: skip
"""What is kept of a job until its columns are made. Times in ns, -1 for what never happened; alone in ps, 0 unknown."""

REJECTED, UNFINISHED, OUTGROWN = 0, 1, 2
FINISHES = {"rejected": REJECTED, "unfinished": UNFINISHED, "truncated": OUTGROWN}
"""Number of each word for how a job finished; others follow as they come."""


def columns_of(
    rows: bytes | bytearray,
    texts: Sequence[tuple[str, str, str]],
    slos: Sequence[Slo],
    finishes: Mapping[str, int],
    block_bytes: int,
) -> Columns:
    """rows: the NUMBERS of each job as int64. texts: its client, program and class. slos: of each job, or of none at
    all. finishes: word -> number."""
    nan = float("nan")
    table = np.frombuffer(rows, np.int64).reshape(-1, len(NUMBERS)).T.copy()
    n = dict(zip(NUMBERS, table, strict=True))
    tokens, finish, begun = n["tokens"], n["finish"], n["first"] >= 0
    ended = finish != UNFINISHED
    with np.errstate(divide="ignore", invalid="ignore"):
        jct = np.where((finish != REJECTED) & (finish != OUTGROWN), (n["now"] - n["arrival"]) / 1e9, nan)
        alone = np.where(n["alone"] > 0, n["alone"] / 1e12, nan)
        columns: Columns = {
            "id": n["id"],
            "arrival": n["arrival"] / 1e9,
            "prompt_tokens": n["prompt"],
            "output_tokens": tokens,
            "finish": np.array(list(finishes), "O")[finish],
            "first_token": np.where(begun, n["first"] / 1e9, nan),
            "end": np.where(ended, n["now"] / 1e9, nan),
            "jct_from_arrival": jct,
            "ttft": np.where(begun, (n["first"] - n["arrival"]) / 1e9, nan),
            "s_per_token": np.where(tokens > 0, jct / tokens, nan),
            "tpot_excl_first": np.where((tokens > 1) & ended, (n["now"] - n["first"]) / 1e9 / (tokens - 1), nan),
            "slowdown": jct / alone,
            "alone": alone,
            "queued": np.where(n["queued"] >= 0, n["queued"] / 1e9, nan),
            "held_s": n["held"] / 1e9,
            "preempted": n["preempted"] / 1e9,
            "stalled": n["stalled"] / 1e9,
            "service": n["served"] / 1e9,
            "largest_gap": np.where(tokens > 1, n["gap"] / 1e9, nan),
            "preemptions": n["preemptions"],
            "overruled": n["overruled"],
            "recomputed_tokens": np.maximum(0, n["computed"] + n["cached"] - n["prompt"]),
            "cached_tokens": n["cached"],
            "cached_host_tokens": n["loaded"],
            "evicted_tokens": np.zeros(len(texts), np.int64),  # who knows the content fills it in
            "draft_tokens": n["drafted"],
            "accepted_tokens": n["accepted"],
            "swapped_out_bytes": n["blocks_out"] * block_bytes,
            "swapped_in_bytes": n["blocks_in"] * block_bytes,
            "client": np.array([client for client, _, _ in texts], "O"),
            "program": np.array([program for _, program, _ in texts], "O"),
            "turn": n["turn"],
            "priority": n["priority"],
            "slo_class": np.array([name for _, _, name in texts], "O"),
        }
    targets = np.array(slos, "f8") if slos else np.full((len(texts), 3), nan)
    columns["ttft_slo"], columns["tpot_slo"], columns["e2e_slo"] = targets.T.copy()
    return columns


def empty() -> Columns:
    """Of no jobs."""
    return {name: np.empty(0, dtype=kind) for name, kind in COLUMNS.items()}
