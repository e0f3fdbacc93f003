"""Service-level objectives of jobs that bring none of their own, what they are written as, and who met what he has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import is_outcome
from fastserve.metrics.saturation import Columns
from fastserve.sched.checks import LONGEST_S, SHORTEST_S, nearest

FIELDS: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s", "attain": "attain"}
OTHER_NAMES: Final = {"jct": "e2e", "e2el": "e2e"}
UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}

WRITTEN = "ttft=1s,tpot=0.1s,e2e=30s,attain=0.95"
INSTEAD: Final = {
    "itl": "tpot is the time per token after the first, a mean over a job; there is no objective for single gaps",
    "goodput": "the rate of jobs that meet their objectives is a result; attain is the share of them that must",
}
"""What is often meant -> what there is."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Objectives in seconds for jobs that bring none of their own; None: no such objective."""

    ttft_s: float | None = None
    """from the arrival to the first token"""
    tpot_s: float | None = None
    """per token after the first, as a mean over a job"""
    e2e_s: float | None = None
    """from the arrival to the last token"""
    attain: float | None = None
    """share of the jobs that must meet all theirs, for whoever looks for the largest load; None: not said"""

    @classmethod
    def parse(cls, text: str | Slo) -> Slo:
        """Of "ttft=1s,tpot=100ms,e2e=30s,attain=95%", any of these, in any order; a time without a unit is in seconds.

        e2e may be written jct or e2el. An Slo is returned as it is. Raises ValueError that says what is wrong.
        """
        if isinstance(text, Slo):
            return text
        if not str(text).strip():
            raise _wrong(text, "there is no objective in it")
        found: dict[str, float] = {}
        for item in str(text).split(","):
            name, equals, value = item.strip().partition("=")
            name = OTHER_NAMES.get(name.strip().lower(), name.strip().lower())
            if name not in FIELDS:
                hint = f": {INSTEAD[name]}" if name in INSTEAD else nearest(name, [*FIELDS, *OTHER_NAMES])
                raise _wrong(text, f"{name!r} is no objective; there are {', '.join(FIELDS)}{hint}")
            if not equals or not value.strip():
                raise _wrong(text, f"{name} has no value")
            if FIELDS[name] in found:
                raise _wrong(text, f"{name} is given twice")
            found[FIELDS[name]] = (_share if name == "attain" else _seconds)(text, name, value.strip().lower())
        return cls(**found)

    def __str__(self) -> str:
        """As parse() reads it; empty without any."""
        times = ((name, getattr(self, field)) for name, field in FIELDS.items() if name != "attain")
        parts = [f"{name}={value:.9g}s" for name, value in times if value is not None]
        return ",".join(parts + ([] if self.attain is None else [f"attain={self.attain:.9g}"]))


def met(jobs: Columns, slo: Slo) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each job: whether it has an objective that counts, and whether it met all it has (False where it has none).

    A job's own objectives go before those of `slo`. Rejected, truncated and unfinished jobs missed theirs. Cancelled
    ones are left out: what they would have done is not known.
    """
    good = is_outcome(jobs["finish"], "completed")
    asked = np.zeros(len(good), dtype=bool)
    for objectives, default, values in (
        (jobs["ttft_slo"], slo.ttft_s, jobs["ttft"]),
        (jobs["tpot_slo"], slo.tpot_s, jobs["tpot_excl_first"]),
        (jobs["e2e_slo"], slo.e2e_s, jobs["jct_from_arrival"]),
    ):
        limits = np.where(np.isnan(objectives), math.nan if default is None else default, objectives)
        asked |= ~np.isnan(limits)
        # No limit, or no value (one token has no TPOT): nothing that could be missed.
        good &= np.isnan(limits) | np.isnan(values) | (values <= limits)
    asked &= ~is_outcome(jobs["finish"], "cancelled")
    return asked, good & asked


def goodput(jobs: Columns, slo: Slo, window: float | None) -> dict[str, Any]:
    """Jobs that met every objective they have, per second and as a share of those that have one."""
    asked, good = met(jobs, slo)
    total, count = int(np.count_nonzero(asked)), int(np.count_nonzero(good))
    return {
        "goodput_rps": count / window if total and window else None,
        "slo_attainment": count / total if total else None,
    }


def attained(slo: Slo, shares: Mapping[str, float | None]) -> str:
    """Who reached the share that was asked for, in words; empty where none was. shares: attainment by label."""
    if slo.attain is None:
        return ""
    met = [label for label, share in shares.items() if share is not None and share >= slo.attain]
    missed = [label for label in shares if label not in met]
    parts = [f"{', '.join(labels)} {verb}" for labels, verb in ((met, "met it"), (missed, "did not")) if labels]
    return f"attain={slo.attain:g}: {'; '.join(parts)}"


def _seconds(text: str, name: str, value: str) -> float:
    unit = next((unit for unit in sorted(UNITS, key=len, reverse=True) if value.endswith(unit)), "")
    try:
        seconds = float(value.removesuffix(unit)) * UNITS.get(unit, 1.0)
    except ValueError:
        raise _wrong(text, f"{name}={value} is no time; write 1.5s or 1500ms") from None
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise _wrong(text, f"{name}={value} must be above 0, and a time that a job can take")
    return seconds


def _share(text: str, name: str, value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise _wrong(text, f"{name}={value} is no share; write 0.95 or 95%") from None
    if not 0 < share <= 1:
        hint = f"; did you mean {value}%?" if 1 < share <= 100 and not value.endswith("%") else ""
        raise _wrong(text, f"{name}={value} must be above 0 and at most 1, or 100%{hint}")
    return share


def _wrong(text: object, why: str) -> ValueError:
    return ValueError(f"slo {str(text)!r}: {why} (objectives are written {WRITTEN})")
