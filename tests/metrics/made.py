"""Records made by hand, for tests of what is computed from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def make_records(arrival: Sequence[float], jct: Sequence[float], **given: Sequence[Any]) -> Columns:
    """Columns of jobs that took `jct` seconds; by default each had its first token after half of that and ten tokens.

    Any column can be `given`; those that follow from others are then derived from it.
    """
    n = len(arrival)

    def column(name: str, default: object, kind: type) -> NDArray[Any]:
        return np.array(given.get(name, [default] * n), dtype=kind)

    start, took = np.array(arrival, dtype=float), np.array(jct, dtype=float)
    finish = column("finish", "stop", object)
    gone = (finish == "rejected") | (finish == "unfinished")
    first = np.array(given["first_token"], dtype=float) if "first_token" in given else start + took / 2
    first = np.where(finish == "rejected", np.nan, first)
    end = np.where(gone, np.nan, start + took)
    output = column("output_tokens", 10, int)
    alone = column("alone", 1.0, float)
    return {
        "id": np.arange(n),
        "arrival": start,
        "prompt_tokens": column("prompt_tokens", 100, int),
        "output_tokens": output,
        "finish": finish,
        "first_token": first,
        "end": end,
        "jct_from_arrival": took,
        "ttft": first - start,
        "s_per_token": took / np.maximum(output, 1),
        "tpot_excl_first": np.where(output > 1, (end - first) / np.maximum(output - 1, 1), np.nan),
        "slowdown": took / alone,
        "alone": alone,
        "queued": column("queued", 0.0, float),
        "preempted": column("preempted", 0.0, float),
        "stalled": column("stalled", 0.0, float),
        "service": took,
        "largest_gap": column("largest_gap", 0.1, float),
        "preemptions": column("preemptions", 0, int),
        "recomputed_tokens": column("recomputed_tokens", 0, int),
        "swapped_out_bytes": column("swapped_out_bytes", 0, int),
        "swapped_in_bytes": column("swapped_in_bytes", 0, int),
        "client": column("client", "", object),
        "program": column("program", "", object),
        "priority": column("priority", 0, int),
        "ttft_slo": column("ttft_slo", np.nan, float),
        "tpot_slo": column("tpot_slo", np.nan, float),
        "e2e_slo": column("e2e_slo", np.nan, float),
    }
