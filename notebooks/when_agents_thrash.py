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
# # When agents thrash
#
# An agent sends its whole context again with every turn. A server that still has the KV of the turn before computes
# only what is new, a few hundred tokens of some ten thousand. As long as the contexts of all agents at work fit into
# the KV pool, this is what happens. Beyond that each turn takes its room from the context that is needed next.
#
# Agents come in *closed loop* here: so many at once, each waits for the answer, thinks, and sends the next turn; when
# one has ended the next begins. A **program** is one agent's run. All policies serve the same programs.

# %%
from experiments._lib.agent_figures import FEW, MEASURES
from experiments._lib.case import point, points, program_ratio
from experiments._lib.figure import PAGE, legend, look_of
from notebooks._page import Runs, show, table

runs = Runs("agents", "cache_orders")
rows = runs["agents"]
TRACE = "recorded" if any(row.at["trace"] == "recorded" for row in rows) else "agents-like"
mine = [row for row in rows if row.at["trace"] == TRACE]
curve = [row for row in mine if row.at["part"] == "curve"]
counts = sorted({int(row.at["agents"]) for row in curve})
MAIN = [label for label in ("fcfs", "sj-mlfq", "lpm", "thunder", "working-set") if points(curve, policy=label)]
print(f"{TRACE}: {', '.join(map(str, counts))} agents at once")
runs

# %% [markdown]
# ## The curve
#
# **Look at** the hit rate first: it leaves that of an unlimited cache at the same number of agents under every policy
# that lets all of them in, whatever its order. Then at programs an hour. And then at the grey line: not even eviction
# that knows the future would save these schedules. Who is served when has to change, not who is evicted.


# %%
def curves(figure):
    grid = figure.subplots(1, len(FEW), sharex=True)
    for axes, measure in zip(grid, FEW, strict=True):
        for label in MAIN:
            there = points(curve, policy=label)
            style = look_of(label)
            axes.plot(
                [one.at["agents"] for one in there], [one.mean(measure) for one in there],
                color=style.colour, linestyle=style.dash, marker=style.marker, label=label,
            )  # fmt: skip
        if measure == "hit_rate":
            base = points(curve, policy="fcfs")
            axes.plot([one.at["agents"] for one in base], [one.mean("hit_rate_belady") for one in base],
                      color="#888888", linestyle="--", label="_Belady on the schedule of fcfs")  # fmt: skip
        if "ttft" in measure:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(MEASURES[measure])
        axes.set_xlabel("agents at once")
    legend(figure, grid[0], 5)


show("when_agents_thrash-curve", (PAGE, 2.3), curves)

# %% [markdown]
# ## Who pays
#
# To hold programs back is no free lunch: those that are held wait, above all before their first turn. `max_wait` bounds
# what `working-set` asks of them; ThunderAgent forces a turn in after 1,800 s. Times are in seconds, with most agents.

# %%
most = counts[-1]
base = point(curve, policy="fcfs", agents=most)
table(
    ["policy", "programs an hour", "time, fcfs over it", "hit rate", "TTFT p50", "first turns p99", "longest hold"],
    [
        [
            one.at["policy"],
            f"{one.mean('programs_per_hour'):.3g}",
            program_ratio(base, one) if one is not base else "",
            f"{one.mean('hit_rate'):.2f}",
            f"{one.mean('p50_ttft_s'):.2f}",
            f"{one.mean('ttft_first_turn_p99_s'):.0f}",
            f"{one.mean('held_max_s'):.0f}",
        ]
        for one in points(curve, agents=most)
    ],
)

# %% [markdown]
# The bound and its price:

# %%
table(
    ["agents at once", "max_wait (s; 0: none)", "mean program time (s)", "first turns p99 (s)", "longest wait (s)"],
    [
        [
            one.at["agents"],
            f"{one.at['max_wait']:g}",
            f"{one.mean('program_time_mean_s'):.0f}",
            f"{one.mean('ttft_first_turn_p99_s'):.0f}",
            f"{one.mean('max_ttft_s'):.0f}",
        ]
        for one in points(mine, part="bound")
    ],
)

# %% [markdown]
# ## Or buy memory
#
# Host memory keeps what the pool lets go, and copies it back in a fraction of the time that computing it takes. In
# units of all contexts at work:

# %%
table(
    ["store", "policy", "programs an hour", "hit rate", "longest wait (s)"],
    [
        [
            f"{one.at['store']:g}",
            one.at["policy"],
            f"{one.mean('programs_per_hour'):.3g}",
            f"{one.mean('hit_rate'):.2f}",
            f"{one.mean('max_ttft_s'):.0f}",
        ]
        for one in points(mine, part="store")
    ],
)

# %% [markdown]
# ## Does skip-join MLFQ hurt prefix caching?
#
# Where memory is short, a little: it rotates, so that more contexts are in use at once. Levels by program (`plas`)
# change hardly anything, for a program's context is as large at any level.

# %%
orders = [row for row in runs["cache_orders"] if row.at["part"] == "agents"]
table(
    ["agents at once", "policy", "hit rate", "time, fcfs over it"],
    [
        [
            one.at["agents"],
            one.at["policy"],
            f"{one.mean('hit_rate'):.3f}",
            program_ratio(point(orders, policy="fcfs", agents=one.at["agents"]), one),
        ]
        for one in points(orders)
        if one.at["policy"] != "fcfs"
    ],
)

# %% [markdown]
# ## What to take away
#
# * Count **contexts against the pool**, not requests against slots: the cliff is where they meet.
# * Order within the batch is a detail on this side of the cliff, and no cure beyond it.
# * Holding programs back, or host memory of some 1.4 times the contexts at work: either restores the throughput. With
#   enough host memory holding back only makes people wait.
# * Report first turns and the longest wait. A median time to first token of 0.2 s says nothing about those who were
#   not let in.
