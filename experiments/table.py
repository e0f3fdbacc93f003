"""python -m experiments.table [--scale small]: writes experiments/README.md from results/reference, live runs last.

At the small scale also what the front page, README.md, says was found: its pictures and the table between its markers.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._lib import front_page
from experiments._lib.reference import path_of, reference
from experiments._lib.sweep import LIVE, ROOT, names
from experiments._lib.verdicts import Verdicts, by_figure, numbers_of, reasons, tally, verdicts
from fastserve.atomic_files import atomically

README = Path(__file__).parent / "README.md"
CORES = 2
SMALL = "small"
"""the scale that the front page tells of"""
HEAD = """# What was reproduced

Published numbers beside ours. *yes*: our 95 % interval meets the published number or range. *close*: it misses it by
less than 15 %. *open*: ours is a bound that leaves room for it, or no number (a rate was not reached, a run was
stopped). FastServe's paper and the code that its authors released differ in their parameters, so each has its rows.
"""

HOW = """
## How it is made

This page is written by `python -m experiments.table` from `results/reference/{scale}`, and from
`results/reference/live` for what ran live; edit the experiments, not the page.

```
source .venv/bin/activate                         # after `make setup`
python -m experiments.jct_vs_rate --scale small   # one of them: smoke, small or paper
python -m experiments --scale small               # all; goes on where a killed run stopped
python -m experiments.check --scale small         # is the last run what the reference says?
python -m experiments.real_traces --trace FILE    # what would I gain on my own traffic?
```

Each run lands in `results/EXPERIMENT/RUN-ID/` with its settings, commit, rows and figures. More cores: `--jobs N`; a
cluster: `--pool ray --address ...` or `--pool dask --address ...` with the extra `cluster`.

Ratios are means over seeds with common random numbers, paired by seed, with 95 % intervals (none below 4 seeds:
[docs/statistics.md](../docs/statistics.md)). Published numbers and their sources are in [published.csv](published.csv)
and [curves.csv](curves.csv). Minutes are of computing, on {cores} cores, or of a live run.

## The experiments

One file a claim or figure; what else each found is folded.
"""

LIVE_HEAD = """
## Live, on one machine

What follows ran on a live engine. Its numbers belong to the machine that is named with them, and to those minutes;
[docs/fidelity.md](../docs/fidelity.md) says what can be concluded from them. `python -m experiments.NAME --scale small`
makes your own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("smoke", "small"), default=SMALL)
    args = parser.parse_args(arguments)
    found = references(args.scale)
    if not found:
        print(
            f"There is no reference at the {args.scale} scale: run the experiments, then check --accept",
            file=sys.stderr,
        )
        return 1
    with atomically(README) as draft:
        draft.write_text(page(found, args.scale), encoding="utf-8")
    print(f"wrote {README} from {len(found)} experiments")
    if args.scale == SMALL:
        front_page.write(verdicts(found))
        print(f"wrote {front_page.README} and its pictures")
    return 0


def references(scale: str) -> dict[str, dict[str, Any]]:
    """By experiment, live ones last."""
    return {name: known for name in (*names(), *LIVE) if (known := reference(name, scale))}


def page(found: Mapping[str, Mapping[str, Any]], scale: str) -> str:
    """The page: first what was published and what came out, then each experiment with all it found."""
    told = verdicts(found)
    parts = [HEAD, *_at_a_glance(told, scale), HOW.format(scale=scale, cores=CORES).lstrip("\n")]
    for name, known in found.items():
        if "provenance" in known and LIVE_HEAD not in parts:
            parts.append(LIVE_HEAD)
        parts += _experiment(name, known, scale)
    return "\n".join(parts) + "\n"


def _at_a_glance(told: Verdicts, scale: str) -> list[str]:
    """The tally, the verdicts by figure, the front page's pictures, the reasons, and the numbers."""
    if not told.rows:
        return []
    parts = [*tally(told.rows)[1:], "", "## By figure", *by_figure(told.rows)]
    if scale == SMALL:
        parts += ["", front_page.images("../")]
    parts += ["", "## Reasons", *reasons(told.reasons), "", "## The numbers"]
    for figure in dict.fromkeys(row.figure for row in told.rows):
        parts += numbers_of(told.rows, figure)
    return [*parts, ""]


def _experiment(name: str, known: Mapping[str, Any], scale: str) -> list[str]:
    """Its section: what it claims, how long it takes, its figures, and what it found besides, folded."""
    command = f"`python -m experiments.{name} --scale {known['scale']}`"
    parts = ["", f"### {name}", "", described(name), ""]
    parts.append(f"{command}: {_minutes(known)} minutes, {len(known['points'])} points{_where(known)}.")
    pictures = [_picture(path) for path in sorted(path_of(name, scale).parent.glob(f"{name}-*.png"))]
    if pictures:
        parts += ["", *pictures]
    ours = [
        f"* {claim['figure']}: {claim['text']}: {claim['shown']}"
        for claim in known["claims"]
        if claim["published"] is None
    ]
    if ours:
        title = f"{len(ours)} of our own numbers"
        parts += ["", f'<details markdown="1"><summary>{title}</summary>', "", *ours, "", "</details>"]
    return parts


def _picture(path: Path) -> str:
    """An image of the references, linked from this page; "" where it is not there."""
    if not path.exists():
        return ""
    return f"![{path.stem.replace('_', ' ').replace('-', ': ', 1)}](../{path.relative_to(ROOT).as_posix()})"


def described(name: str) -> str:
    """An experiment's own docstring without the command."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[2]


def _minutes(known: Mapping[str, Any]) -> str:
    """Simulations fill all cores; live runs come one after the other."""
    return f"{max(known['seconds'] / 60 / (1 if 'provenance' in known else CORES), 0.1):.1f}"


def _where(known: Mapping[str, Any]) -> str:
    about = known.get("provenance")
    if about is None:
        return ""
    machine = about["machine"]
    commit = str(about["commit"])[:7] + (" with changes" if about["dirty"] else "")
    return f", {about['written_at'][:10]}, {machine['cpu']}, {machine['cores']} cores, commit {commit}"


if __name__ == "__main__":
    sys.exit(main())
