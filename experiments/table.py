"""python -m experiments.table [--scale small]: writes experiments/README.md from results/reference, live runs last."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments._lib.reference import reference
from experiments._lib.sweep import LIVE, names
from fastserve.atomic_files import atomically

README = Path(__file__).parent / "README.md"
CORES = 2

HEAD = """# Experiments

One file a claim or figure. This page is written by `python -m experiments.table` from `results/reference/{scale}`, and
from `results/reference/live` for what ran live; edit the experiments, not the page.

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
[docs/statistics.md](../docs/statistics.md)). "agrees": *yes*, our interval meets the published number or range;
*close*, it misses it by less than 15 %; *no*; *open*, ours is a bound that leaves room for it, or no number (a rate was
not reached, a run was stopped). Published numbers and their sources
are in `published.csv` and `curves.csv`. Minutes are of computing, on {cores} cores, or of a live run.
"""

LIVE_HEAD = """
# Live, on one machine

What follows ran on a live engine. Its numbers belong to the machine that is named with them, and to those minutes;
`docs/fidelity.md` says what can be concluded from them. `python -m experiments.NAME --scale small` makes your own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.table", description=__doc__)
    parser.add_argument("--scale", choices=("smoke", "small"), default="small")
    args = parser.parse_args(arguments)
    found = {name: known for name in (*names(), *LIVE) if (known := reference(name, args.scale))}
    if not found:
        print(
            f"There is no reference at the {args.scale} scale: run the experiments, then check --accept",
            file=sys.stderr,
        )
        return 1
    with atomically(README) as draft:
        draft.write_text(page(found, args.scale), encoding="utf-8")
    print(f"wrote {README} from {len(found)} experiments")
    return 0


def page(found: dict[str, dict[str, Any]], scale: str) -> str:
    """The page: first what was published and what came out, then each experiment with all it found."""
    parts = [HEAD.format(scale=scale, cores=CORES), "## Published claims\n"]
    parts.append("figure | claim | command | minutes | published | ours with interval | agrees? | if not, why")
    parts.append("--- | --- | --- | ---: | --- | --- | --- | ---")
    for name, known in found.items():
        for claim in known["claims"]:
            if claim["published"] is not None:
                why = claim["why"] if claim["verdict"] != "yes" else ""
                cells = [claim["figure"], claim["text"], f"`{name}`", _minutes(known), claim["published"]]
                parts.append(" | ".join([*cells, claim["shown"], claim["verdict"], why]))
    for name, known in found.items():
        if "provenance" in known and LIVE_HEAD not in parts:
            parts.append(LIVE_HEAD)
        parts += ["", f"## {name}", "", described(name), ""]
        command = f"`python -m experiments.{name} --scale {known['scale']}`"
        parts.append(f"{command}: {_minutes(known)} minutes, {len(known['points'])} points{_where(known)}.")
        parts += [
            "",
            *[
                f"* {claim['figure']}: {claim['text']}: {claim['shown']}"
                for claim in known["claims"]
                if claim["published"] is None
            ],
        ]
    return "\n".join(parts) + "\n"


def described(name: str) -> str:
    """An experiment's own docstring without the command."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[2]


def _minutes(known: dict[str, Any]) -> str:
    """Simulations fill all cores; live runs come one after the other."""
    return f"{max(known['seconds'] / 60 / (1 if 'provenance' in known else CORES), 0.1):.1f}"


def _where(known: dict[str, Any]) -> str:
    about = known.get("provenance")
    if about is None:
        return ""
    machine = about["machine"]
    commit = str(about["commit"])[:7] + (" with changes" if about["dirty"] else "")
    return f", {about['written_at'][:10]}, {machine['cpu']}, {machine['cores']} cores, commit {commit}"


if __name__ == "__main__":
    sys.exit(main())
