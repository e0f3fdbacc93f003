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
# Live runs belong to the machine that made them, so none are committed and none start by themselves: this page reads
# the last run here. Without one it says what to run.

# %%
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments._case import points
from experiments._figure import COLUMN, legend, look_of
from experiments._sweep import SCALES, IncompleteError, finished
from experiments.fidelity import document, each, error
from notebooks._page import show, table

outcome = None
for scale in reversed(SCALES):
    try:
        outcome = finished("fidelity", scale)
        break
    except IncompleteError as missing:
        print(missing)
cells = points(outcome.rows) if outcome else []

# %% [markdown]
# ## The errors
#
# Each number is the median over paired runs of simulated over live, less 1. **Look at** the last two columns first: the
# same trace live once more says what this machine can promise at all, and the simulation with the live run's own
# times says what the form of the model costs. What is left of the first column is drift: the machine was another one
# while it was profiled.

# %%
table(
    ["policy", "load", "residency", "pairs", "mean JCT", "p95", "p99", "TTFT", "with its own times", "live again"],
    [
        [
            *(cell.at[name] for name in ("policy", "load", "residency")),
            len(cell.rows),
            *(error(cell, name) for name in ("mean_jct_s", "p95_jct_s", "p99_jct_s", "mean_ttft_s")),
            error(cell, "mean_jct_s", "hindsight"),
            error(cell, "mean_jct_s", "again"),
        ]
        for cell in cells
    ],
)

# %%
if outcome:
    said = document(outcome)
    head = ("worst_mean_jct_error", "ranking_equal", "noise_floor_mean_jct", "largest_load_average", "scheduler_share")
    table(["what", "value"], [[name, said[name]] for name in head])

# %% [markdown]
# ## Job by job
#
# A mean can be right by luck. Each dot is a job: its live completion time and the simulated one. On the diagonal they
# agree; a cloud along it is noise; a cloud beside it is drift; two clouds would be a decision that was not modelled.

# %%
if outcome:

    def scatter(figure: Figure) -> None:
        axes: Any = figure.subplots()
        for policy in dict.fromkeys(str(cell.at["policy"]) for cell in cells):
            mine = [row for cell in cells if cell.at["policy"] == policy for row in cell.rows]
            live, simulated = (np.concatenate([row.numbers[f"{of}_jct"] for row in mine]) for of in ("live", "sim"))
            style = look_of(policy)
            axes.plot(
                live, simulated, linestyle="none", marker=style.marker, markersize=2, color=style.colour, label=policy
            )
        axes.axline((1, 1), (2, 2), color="#777777", linewidth=0.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("live JCT (s)")
        axes.set_ylabel("simulated JCT (s)")
        legend(figure, axes)

    show("simulated_against_live", (COLUMN, 2.6), scatter)

# %% [markdown]
# ## Pair by pair
#
# If the errors of the pairs have one sign, something is missing in the model. If they have both, the machine moved.

# %%
table(
    ["policy", "load", "predicted", "with its own times"],
    [
        [
            cell.at["policy"],
            cell.at["load"],
            *(", ".join(f"{x:+.0%}" for x in each(cell, of)) for of in ("sim", "hindsight")),
        ]
        for cell in cells
    ],
)

# %% [markdown]
# ## Another policy here
#
# `python -m experiments.fidelity --scale smoke` takes about two minutes on a machine of its own, `fastserve ab
# --offline` compares any two policies live. docs/fidelity.md says what is modelled and what is not.
