"""Profiles: quantile tables of the lengths of public traces, small enough to ship."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError
from fastserve.workload.trace import IntArray

_FOLDER = files("fastserve.workload") / "profiles"


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """An empirical distribution: tokens[i] is the quantile at levels[i]; both increase, levels from 0 to 1."""

    levels: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.float64]

    def at(self, u: npt.NDArray[np.float64]) -> IntArray:
        """Tokens at the levels u (any shape), linear between two entries and rounded; at least 1."""
        return np.maximum(np.rint(np.interp(u, self.levels, self.tokens)), 1).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Prompt and output lengths of one source. They are drawn independently, whatever `rank_correlation` says."""

    name: str
    source: str
    licence: str
    cite: str
    rank_correlation: float
    """Spearman's, of prompt and output in the source: the deviation that independence brings."""
    max_total: int | None
    """prompt + output never exceeds it; None where the source sets no bound."""
    prompt: Quantiles
    output: Quantiles
    arrivals: dict[str, float] | None
    """`rate_rps` and `cv` of the source's own arrivals; None for a set of lengths."""


def profile_names() -> list[str]:
    """The shipped profiles, sorted."""
    return sorted(entry.name.removesuffix(".json") for entry in _FOLDER.iterdir() if entry.name.endswith(".json"))


@cache
def load_profile(name: str) -> Profile:
    """A shipped profile; TraceError lists the names when there is none of that name."""
    if name not in profile_names():
        raise TraceError(f"there is no profile {name!r}; shipped: {', '.join(profile_names())}")
    data = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    levels = np.array(data["levels"], np.float64)
    return Profile(
        name=name,
        source=data["source"],
        licence=data["licence"],
        cite=data["cite"],
        rank_correlation=data["rank_correlation"],
        max_total=data["max_total"],
        prompt=Quantiles(levels, np.array(data["prompt"], np.float64)),
        output=Quantiles(levels, np.array(data["output"], np.float64)),
        arrivals=data["arrivals"],
    )
