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
# # When it collapses
#
# An overloaded server is slow; when the load goes, it recovers. Some systems do not: pushed over an edge, they stay
# there, working hard and getting nothing done, at a load that they carried with ease a minute before. Such states are
# called *metastable*. This page shows one that time slicing has when KV memory is bounded. The paper does not mention
# it.
#
# The mechanism in three sentences. A burst makes more requests live than the pool holds. Ageing makes each of them
# urgent after it has waited 0.3 s, so that they take turns, and each turn begins with a copy or with computing
# everything again. The machine is busy with turns, finishes little, and what arrives meanwhile joins the circle.

# %%
from experiments._lib.case import point, points, ratio
from experiments._lib.figure import COLUMN, legend
from experiments.metastable import SCALES
from notebooks._page import Runs, show, table
from sim.report.style import BLACK, BLUE, VERMILION
from sim.settings import UNLIMITED

runs = Runs("metastable")
rows = runs["metastable"]
pools = sorted({int(row.at["pool"]) for row in rows if row.at["pool"] != UNLIMITED})
loads = sorted({float(row.at["load"]) for row in rows})
BOUND = SCALES[runs.scale].backlog
print(f"A run is stopped, and counts as collapsed, when more than {BOUND} requests are live.")
runs

# %% [markdown]
# ## One burst, three outcomes
#
# Azure-conversation-like requests at a load that fcfs carries. In the middle, an eighth of them comes at three times
# the rate (grey). Each line is a seed; a line that ends in a cross was stopped.
#
# **Look at** what happens *after* the grey. Under fcfs the backlog drains. Under sj-mlfq it goes on growing, at the
# same arrivals, until the run is stopped. In between is our *visit guard* (dashed): while memory is short, a request
# that is on the machine stays until the visit has served it 64 times what its return will cost.

# %%
watched = min(loads)
pool = pools[-1]
SERIES = (
    ("fcfs", 0.0, 0, BLACK, "-", "fcfs"),
    ("sj-mlfq", 0.3, 0, BLUE, "-", "sj-mlfq"),
    ("sj-mlfq", 0.3, 64, BLUE, "--", "sj-mlfq, guard"),
)


def burst(figure):
    residencies = list(dict.fromkeys(str(row.at["residency"]) for row in rows))
    found = figure.subplots(len(residencies), 1, sharex=True, squeeze=False)[:, 0]
    for axes, residency in zip(found, residencies, strict=True):
        for policy, alpha, visit, colour, dash, label in SERIES:
            at = {"policy": policy, "alpha": alpha, "visit": visit}
            mine = point(rows, residency=residency, pool=pool, load=watched, **at)
            for nth, row in enumerate(mine.rows):
                minutes = [i * row.numbers["live_step_s"] / 60 for i in range(len(row.numbers["live"]))]
                axes.plot(
                    minutes, row.numbers["live"], color=colour, linestyle=dash, linewidth=0.8,
                    label=label if nth == 0 else None,
                )  # fmt: skip
                if row.numbers["collapsed"]:
                    axes.plot(minutes[-1:], row.numbers["live"][-1:], marker="x", color=colour)
        first = mine.rows[0].numbers
        axes.axvspan(first["begin_s"] / 60, first["end_s"] / 60, color="#999999", alpha=0.25, linewidth=0)
        axes.set_title(f"{residency}, pool of {pool:,} tokens, load {watched:g}")
        axes.set_ylabel("live requests")
    found[-1].set_xlabel("minutes")
    legend(figure, found[0], 3)


show("when_it_collapses-burst", (COLUMN, 3.9), burst)

# %% [markdown]
# ## The map
#
# Seeds that collapsed, of all, by load (across), pool (panels) and rule (down): alpha is the waiting time after which
# a request becomes urgent (0: never), visit the guard. fcfs sustains every load here.
#
# **Look at** the last panel first: with unlimited memory hardly anything collapses, so it is not the time slicing as
# such. Then at the rows with visit 0 against those with 64. And then at what the guard does *not* do: at the higher
# loads most of its rows are dark too. A guarded server gets over a burst at a moderate load; close to capacity it has
# lost some of its throughput to the moves that it still makes, and what is left is less than what arrives. The backlog
# then grows slowly until the arrivals end, and whether it crosses the bound is a matter of how long one looks.

# %%
alphas = sorted({float(row.at["alpha"]) for row in rows if row.at["policy"] == "sj-mlfq"})
RULES = [("fcfs", 0.0, 0)] + [("sj-mlfq", alpha, visit) for visit in (0, 64) for alpha in alphas]
residency = "proactive"


def collapse_map(figure):
    there = [*pools, UNLIMITED] if any(row.at["pool"] == UNLIMITED for row in rows) else pools
    found = figure.subplots(1, len(there), sharey=True, squeeze=False)[0]
    for axes, size in zip(found, there, strict=True):
        for line, (policy, alpha, visit) in enumerate(RULES):
            at = {"policy": policy, "alpha": alpha, "visit": visit}
            for column, load in enumerate(loads):
                mine = point(rows, residency=residency, pool=size, load=load, **at)
                gone = sum(bool(row.numbers["collapsed"]) for row in mine.rows)
                share = gone / len(mine.rows)
                axes.barh(line, 0.92, left=column - 0.46, height=0.92, color=VERMILION, alpha=0.08 + 0.92 * share)
                axes.text(
                    column, line, f"{gone}/{len(mine.rows)}", ha="center", va="center", fontsize=6,
                    color="white" if share > 0.5 else "black",
                )  # fmt: skip
        axes.set_xticks(range(len(loads)), [f"{load:g}" for load in loads])
        axes.set_title(str(size) if size == UNLIMITED else f"{size:,}")
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
    names = [policy if policy == "fcfs" else f"alpha {alpha:g} s, visit {visit}" for policy, alpha, visit in RULES]
    found[0].set_yticks(range(len(RULES)), names)
    found[0].invert_yaxis()
    figure.suptitle(f"KV pool in tokens ({residency})", fontsize=8)
    figure.supxlabel("load around the burst", fontsize=8)


show("when_it_collapses-map", (COLUMN, 2.6), collapse_map)

# %% [markdown]
# ## The price of the guard
#
# Where nothing was stopped, the guarded sj-mlfq against fcfs and against itself with unlimited memory. Below 1: worse.
#
# The guard gives up what time slicing is for: while memory is short, newcomers wait for visits to end. What remains of
# the faster first token depends on the pool.

# %%
lines = []
for mine in points(rows, policy="sj-mlfq", alpha=0.3, visit=64, residency=residency):
    if mine.at["pool"] == UNLIMITED or any(mine.values("collapsed")):
        continue
    fcfs = point(rows, **(mine.at | {"policy": "fcfs", "alpha": 0.0, "visit": 0}))
    free = points(rows, **(mine.at | {"pool": UNLIMITED}))
    lines.append(
        [
            f"{mine.at['pool']:,}",
            f"{mine.at['load']:g}",
            ratio(fcfs, mine, "mean_jct_s"),
            ratio(fcfs, mine, "mean_ttft_s"),
            ratio(free[0], mine, "mean_jct_s") if free else "not run",
        ]
    )
if lines:
    table(
        ["pool", "load", "fcfs over it: mean JCT", "mean TTFT", "unlimited over it: mean JCT"],
        lines,
    )
else:
    print("At this scale every guarded run with a bounded pool was stopped.")

# %% [markdown]
# ## How long until it is over
#
# Seconds from the end of the burst until as few requests live as before it, or fewer than a batch; how many seeds got
# there before the arrivals ended.

# %%


def recovery(mine) -> str:
    times = [float(row.numbers["recovered_s"]) for row in mine.rows if row.numbers["recovered_s"] is not None]
    return f"{len(times)}/{len(mine.rows)}" + (f", {min(times):.0f} to {max(times):.0f} s" if times else "")


table(
    ["pool", "load", "fcfs", "sj-mlfq, alpha 0.3 s", "the same with the guard"],
    [
        [
            f"{size:,}",
            f"{load:g}",
            *(
                recovery(point(rows, residency=residency, pool=size, load=load, policy=p, alpha=a, visit=v))
                for p, a, v, *_ in SERIES
            ),
        ]
        for size in pools
        for load in loads
    ],
)

# %% [markdown]
# ## What to take away
#
# * **Time slicing plus ageing needs memory for everybody who may be alive**, not only for the batch. With it, nothing
#   on this page happens.
# * Without it, the load at which a server is stable depends on its history. A benchmark that ramps up gently will not
#   see this, and one that drains at the end, as the artifact's does, hides it.
# * Ageing is the trigger and not the cause: with alpha 0 fewer runs collapse, but many still do.
# * The guard makes moderate loads safe and high ones survivable for longer. It is no cure. A policy that admits no
#   more requests than the pool holds would be; fcfs is one.
# * That a run is stopped at a bound is our choice: a run that crosses it slowly would show the same cross as one that
#   explodes. That is why the first figure shows the backlog itself.
