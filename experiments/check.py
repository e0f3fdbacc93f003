"""python -m experiments.check --scale smoke|small: compares the last run with results/reference; exits 1 if different.

Runs are deterministic for a seed, so that only a change of the source moves a number. Allowed are 2 % on means over
seeds, 5 % on P95, P99 and maxima, 0.02 on shares; the status of a point (ok, saturated, collapsed) and a verdict must
be the same. A run that is missing, or older than the source, fails. Points whose trace is not here are passed over and
counted. --accept makes the last runs the reference; of a live experiment, which must be named by --only, that is all
there is to do: its numbers are its machine's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from experiments._lib.reference import accept, condensed, path_of, reference
from experiments._lib.sweep import LIVE, IncompleteError, finished, load, names

MEAN, TAIL, SHARE = 0.02, 0.05, 0.02


def differences(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[list[str], int]:
    """Lines with the differences, and the number of reference points that cannot be produced here."""
    absent = getattr(load(name), "absent", lambda at: False)
    mine = {_key(point["at"]): point for point in ours["points"]}
    found: list[str] = []
    left_out = 0
    for point in theirs["points"]:
        here = mine.pop(_key(point["at"]), None)
        if here is None:
            if absent(point["at"]):
                left_out += 1
            else:
                found.append(f"{_said(point['at'])}: not in the last run")
            continue
        if here["status"] != point["status"]:
            found.append(f"{_said(point['at'])}: {here['status']}, in the reference {point['status']}")
        for measure, value in point["means"].items():
            if not near(measure, here["means"].get(measure), value):
                now = here["means"].get(measure)
                found.append(f"{_said(point['at'])}: {measure} is {now}, in the reference {value}")
    found += [f"{_said(point['at'])}: not in the reference" for point in mine.values()]
    if not left_out:
        verdicts = {(claim["figure"], claim["text"]): claim["verdict"] for claim in ours["claims"]}
        for claim in theirs["claims"]:
            now = verdicts.get((claim["figure"], claim["text"]))
            if now != claim["verdict"]:
                found.append(f"{claim['figure']}: {claim['text']}: agrees: {now}, in the reference {claim['verdict']}")
    return found, left_out


def near(measure: str, ours: float | None, theirs: float | None) -> bool:
    """Whether two values of a measure are within tolerance."""
    if ours is None or theirs is None:
        return ours is theirs
    if "share" in measure or "hit_rate" in measure or "attained" in measure or measure in ("collapsed",):
        return abs(ours - theirs) <= SHARE
    tolerance = TAIL if any(word in measure for word in ("p95", "p99", "max", "longest")) else MEAN
    return abs(ours - theirs) <= tolerance * abs(theirs) + 1e-9


def _key(at: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(at.items()))


def _said(at: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in at.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("smoke", "small"), default="small")
    known_names = [*names(), *LIVE]
    parser.add_argument(
        "--only", action="append", choices=known_names, metavar="NAME", help="these (repeat for several)"
    )
    parser.add_argument("--accept", action="store_true", help="make the last runs the reference")
    parser.add_argument("--lines", type=int, default=10, metavar="N", help="differences shown per experiment")
    args = parser.parse_args(arguments)
    live = sorted(set(args.only or ()) & set(LIVE))
    if live and not args.accept:
        parser.error(f"{', '.join(live)}: a live run is not held against another machine's; --accept publishes it")
    failed = 0
    for name in args.only or names():
        try:
            outcome = finished(name, args.scale)
        except IncompleteError as error:
            print(f"{name}: {error}")
            failed += 1
            continue
        if args.accept:
            try:
                print(f"{name}: wrote {accept(outcome)}")
            except ValueError as error:
                print(f"{name}: {error}")
                failed += 1
            continue
        known = reference(name, args.scale)
        if known is None:
            print(f"{name}: there is no {path_of(name, args.scale)}; --accept makes it")
            failed += 1
            continue
        found, left_out = differences(name, condensed(outcome), known)
        rest = f" ({left_out} of its points need traces that are not here)" if left_out else ""
        print(f"{name}: {f'{len(found)} differences' if found else 'as the reference'}{rest}")
        for line in found[: args.lines]:
            print(f"  {line}")
        failed += bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
