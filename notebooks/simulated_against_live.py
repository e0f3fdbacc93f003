# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Simulated against live
#
# Every other page rests on the simulator. This one asks whether it may. The same policy objects ran on the live engine
# and in the simulator, on the same traces with the same pools; the prediction was made before each live run, from a
# profile taken just then.
#
# Live runs belong to the machine that made them, and none starts by itself: this page reads the last one here. Without
# one it shows what our committed run found, as far as its means and figures say; docs/fidelity.md says the rest.

# %%
from typing import Any

from matplotlib.figure import Figure

from experiments._lib.case import points
from experiments._lib.errors import document, draw_jobs, each, error
from experiments._lib.figure import PAGE, legend
from experiments._lib.reference import path_of, reference
from experiments._lib.sweep import SCALES, IncompleteError, finished
from notebooks._page import picture, show, table

outcome = None
for scale in reversed(SCALES):
    try:
        outcome = finished("fidelity", scale)
        break
    except IncompleteError as missing:
        print(missing)
cells = points(outcome.rows) if outcome else []
committed = None if outcome else reference("fidelity", "small")
if committed:
    about = committed["provenance"]
    machine, commit = about["machine"], about["commit"][:8]
    print(f"Committed: {about['written_at'][:10]}, commit {commit}, {machine['cores']} cores, {machine['cpu']}")

# %% [markdown]
# ## The errors
#
# Each number is the median over paired runs of simulated over live, less 1. **Look at** the last column first: the same
# trace live once more says what this machine can promise at all. Then at the three before it: the same simulation at
# the tempo that the machine had in each second of the live run. What those still miss is the simulator's decisions, and
# noise below a second; what the prediction misses beyond that is the profile, of another minute of the machine.


# %%
def percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


if outcome:
    head = ["predicted: mean JCT", "p95", "p99", "at its tempo: mean JCT", "p95", "p99", "live again: mean JCT"]
    table(
        ["policy", "load", "residency", "pairs", *head],
        [
            [
                *(cell.at[name] for name in ("policy", "load", "residency")),
                len(cell.rows),
                *(
                    percent(error(cell, name, of))
                    for of in ("sim", "tempo")
                    for name in ("mean_jct_s", "p95_jct_s", "p99_jct_s")
                ),
                percent(error(cell, "mean_jct_s", "again")),
            ]
            for cell in cells
        ],
    )
elif committed:  # of its pairs: median and range of simulated over live
    found: dict[str, dict[str, str]] = {}
    for claim in committed["claims"]:
        cell, _, which = claim["text"].partition(": mean JCT, ")
        found.setdefault(cell, {})[which.removesuffix(" over live (median, range)")] = claim["shown"]
    columns = list(dict.fromkeys(which for each_cell in found.values() for which in each_cell))
    table(["cell", *columns], [[cell, *(there.get(which, "") for which in columns)] for cell, there in found.items()])
    picture(path_of("fidelity", "small").with_name("fidelity-errors.png"))

# %%
if outcome:
    said = document(outcome)
    shown = (
        "worst_mean_jct_error",
        "worst_mean_jct_error_at_the_machines_tempo",
        "noise_floor_mean_jct",
        "ranking_equal",
        "pairs_that_live_runs_rank",
        "largest_load_average",
        "scheduler_share",
    )
    table(["what", "value"], [[name, said[name]] for name in shown])

# %% [markdown]
# ## Job by job
#
# A mean can be right by luck. Each dot is a job: its live completion time and the simulated one. On the diagonal they
# agree; a cloud along it is noise; a cloud beside it is drift; two clouds would be a decision that was not modelled.
# Left the prediction, right the simulation at the machine's tempo.

# %%
if outcome:

    def scatter(figure: Figure) -> None:
        panels: Any = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, of in zip(panels, ("sim", "tempo"), strict=True):
            draw_jobs(axes, cells, of)
        panels[0].set_ylabel("simulated (s)")
        legend(figure, panels[0], columns=4)

    show("simulated_against_live", (PAGE, 3.2), scatter)
elif committed:
    picture(path_of("fidelity", "small").with_name("fidelity-jobs.png"))

# %% [markdown]
# ## Pair by pair
#
# If a policy's errors at the machine's tempo have one sign, something is missing in the model. Predictions that miss to
# both sides say that the machine moved.

# %%
if outcome:
    table(
        ["policy", "load", "predicted", "at the machine's tempo"],
        [
            [
                cell.at["policy"],
                cell.at["load"],
                *(", ".join(f"{x:+.0%}" for x in each(cell, of)) for of in ("sim", "tempo")),
            ]
            for cell in cells
        ],
    )

# %% [markdown]
# ## Another policy here
#
# `python -m experiments.fidelity --scale smoke` takes about two minutes on a machine of its own, `fastserve ab
# --offline` compares any two policies live. docs/fidelity.md says what is modelled and what is not.
