"""What requests carry beside times and lengths: who sends them, how urgent they are, what they are promised.

priorities  0:0.8/1:0.15/2:0.05                              PRIORITY:SHARE, the smaller the more urgent
clients     zipf:n=20,s=1.1                                  n clients, client k of which sends a share proportional to
                                                             k^-s; s=0: equal shares
classes     chat:0.7:ttft=1s,tpot=0.1s/batch:0.3:e2e=60s     NAME:SHARE:OBJECTIVES, which fastserve/metrics/slo.py reads

Shares sum to 1. Each row (of agents each program) is drawn by itself, each attribute from a stream of its own.

That few clients send most requests has been measured of web servers (Breslau et al., Web Caching and Zipf-like
Distributions, INFOCOM 1999: s from 0.64 to 0.83) and of LLM services (Xiang et al., ServeGen, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fastserve.metrics import slo
from fastserve.metrics.slo import Slo
from fastserve.workload.errors import TraceError
from fastserve.workload.recipe import Known, parse
from fastserve.workload.trace import NS

CLIENTS: Known = {"zipf": {"n": None, "s": 1.1}}

INNER: Final = frozenset(CLIENTS["zipf"]) | slo.FIELDS.keys() | slo.OTHER_NAMES.keys()
"""Keys within these recipes."""

MOST_CLIENTS = 10_000_000
LARGEST = 2**31
"""Bound of priorities, either way, as of a server's."""
OFF_BY = 1e-6
"""By how much a sum of shares may miss 1: they are written in decimals."""

PRIORITIES_ARE = "priorities are written 0:0.8/1:0.15/2:0.05 (PRIORITY:SHARE, the smaller the more urgent)"
CLASSES_ARE = "classes are written chat:0.7:ttft=1s,tpot=0.1s/batch:0.3:e2e=60s (NAME:SHARE:OBJECTIVES)"

Places = npt.NDArray[np.intp]


class ServiceClass(NamedTuple):
    """name: as the rows have it. share: of the requests. slo: what each of them is promised."""

    name: str
    share: float
    slo: Slo


@dataclass(frozen=True, slots=True)
class Attributes:
    """Recipes; None where requests do not have it."""

    priorities: str | None = None
    clients: str | None = None
    classes: str | None = None

    def drawn(self, n: int, root: np.random.SeedSequence) -> dict[str, Any]:
        """Columns of n rows, by their names in a Trace: those that are asked for. Takes three streams of `root`.

        Raises TraceError.
        """
        streams = [np.random.default_rng(stream) for stream in root.spawn(len(fields(self)))]
        found: dict[str, Any] = {}
        if self.priorities is not None:
            values, shares = priorities_of(self.priorities)
            found["priority"] = np.array(values, np.int64)[_places(n, np.array(shares), streams[0])]
        if self.clients is not None:
            found["client"] = _clients(self.clients, n, streams[1])
        if self.classes is not None:
            found |= _classes(classes_of(self.classes), n, streams[2])
        return found


def priorities_of(spec: str) -> tuple[list[int], list[float]]:
    """Priorities and their shares. Raises TraceError."""
    values: list[int] = []
    shares: list[float] = []
    for part in spec.split("/"):
        text, colon, share = part.strip().partition(":")
        try:
            value = int(text)
        except ValueError:
            raise TraceError(
                f"{part.strip()!r} in {spec!r} names no priority, a whole number; {PRIORITIES_ARE}"
            ) from None
        if not -LARGEST <= value < LARGEST:
            raise TraceError(f"priority {value} in {spec!r} is not one from {-LARGEST:,} to {LARGEST - 1:,}")
        if value in values:
            raise TraceError(f"priority {value} is given twice in {spec!r}")
        values.append(value)
        shares.append(_share(share if colon else "", f"priority {value}", spec, PRIORITIES_ARE))
    _check_sum(shares, "priorities", spec)
    return values, shares


def classes_of(spec: str) -> list[ServiceClass]:
    """Raises TraceError."""
    found: list[ServiceClass] = []
    for part in spec.split("/"):
        name, _, rest = part.strip().partition(":")
        share, _, objectives = rest.partition(":")
        name = name.strip()
        if not name:
            raise TraceError(f"a class in {spec!r} has no name; {CLASSES_ARE}")
        if name in [other.name for other in found]:
            raise TraceError(f"class {name!r} is given twice in {spec!r}")
        fraction = _share(share, f"class {name!r}", spec, CLASSES_ARE)
        try:
            promised = Slo.parse(objectives) if objectives.strip() else Slo()
        except ValueError as error:
            raise TraceError(f"class {name!r}: {error}") from None
        if promised.attain is not None:
            raise TraceError(
                f"class {name!r}: attain is not an objective of a request but of a run; give it with --slo"
            )
        found.append(ServiceClass(name, fraction, promised))
    _check_sum([one.share for one in found], "classes", spec)
    return found


def _share(text: str, of: str, spec: str, written: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise TraceError(f"{of} in {spec!r} has no share, a number such as 0.7; {written}") from None
    if not 0 < share <= 1:
        raise TraceError(f"the share of {of} in {spec!r} is {share:g}; it must be above 0 and at most 1")
    return share


def _check_sum(shares: Sequence[float], what: str, spec: str) -> None:
    if abs(sum(shares) - 1) > OFF_BY:
        raise TraceError(f"the shares of the {what} in {spec!r} sum to {sum(shares):.6g}, not to 1")


def _places(n: int, weights: npt.NDArray[np.floating[Any]], rng: np.random.Generator) -> Places:
    """n places in `weights`, each by its weight over their sum."""
    cumulative = np.cumsum(weights)
    found = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    places: Places = np.minimum(found, len(weights) - 1)
    return places


def _clients(spec: str, n: int, rng: np.random.Generator) -> list[str]:
    """client1, client2, ..., the first the busiest."""
    try:
        _, values = parse(spec, CLIENTS)
    except TraceError as error:
        raise TraceError(f"clients: {error}; n comes first, for later on n= is the number of requests") from None
    count, s = values["n"], values["s"]
    if count != int(count) or not 1 <= count <= MOST_CLIENTS:
        raise TraceError(f"n in {spec!r} is {count:g}, not a number of clients from 1 to {MOST_CLIENTS:,}")
    if not s >= 0:
        raise TraceError(f"s in {spec!r} is {s:g}; it must be 0 (equal shares) or above")
    drawn = _places(n, np.arange(1, int(count) + 1) ** -s, rng).tolist()
    names = {place: f"client{place + 1}" for place in set(drawn)}
    return [names[place] for place in drawn]


def _classes(classes: Sequence[ServiceClass], n: int, rng: np.random.Generator) -> dict[str, Any]:
    places = _places(n, np.array([one.share for one in classes]), rng)
    found: dict[str, Any] = {"slo_class": [classes[place].name for place in places.tolist()]}
    for column, key in (("ttft_slo", "ttft_s"), ("tpot_slo", "tpot_s"), ("e2e_slo", "e2e_s")):
        times = [getattr(one.slo, key) for one in classes]
        if any(time is not None for time in times):
            found[column] = np.array([round((time or 0) * NS) for time in times], np.int64)[places]
    return found
