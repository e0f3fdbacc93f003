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
# # Your own trace
#
# The other pages show numbers that somebody computed. This one computes, while you watch, what a scheduler would do
# with *your* requests: name a file in the next cell (or set `FASTSERVE_TRACE`) and run everything. Azure, Mooncake,
# BurstGPT and ServeGen traces, and most CSV or JSON-lines files with arrival, prompt and output columns, are
# recognised by their content. Without a file it takes the bundled trace.

# %%
import os

import numpy as np

import sim
from experiments._lib.figure import COLUMN, legend, plain_log
from experiments._lib.sweep import ROOT
from fastserve import Job, Policy
from fastserve.sched.conformance.check import check_policy
from fastserve.workload import read_trace
from fastserve.workload.statistics import describe
from notebooks._page import show, table
from sim.report.style import look
from sim.settings import Settings

TRACE = os.environ.get("FASTSERVE_TRACE", str(ROOT / "traces" / "azure-conv-like.jsonl"))
REQUESTS = 300  # the first so many; more is better and takes longer
SEEDS = 3  # seed 0 is the trace; the others pair its arrivals with its requests anew
MACHINE = Settings(latency="opt-13b-a100", max_batch=16)  # try roofline:llama-3-8b/h100, or a JSON file of your own

trace = read_trace(TRACE, rate=1.0).head(REQUESTS)
seen = describe(trace)
table(
    ["requests", "span (s)", "CV of gaps", "prompt mean / p99", "output mean / p99", "rank correlation"],
    [
        [
            seen.n,
            seen.span_s,
            seen.gap_cv,
            f"{seen.prompt.mean:.0f} / {seen.prompt.p99:.0f}",
            f"{seen.output.mean:.0f} / {seen.output.p99:.0f}",
            seen.rank_correlation,
        ]
    ],
)

# %% [markdown]
# Three of these numbers tell most of what will follow. **The p99 over the mean of the outputs**: the heavier the tail,
# the more a queue loses by serving in order. **The CV of the gaps**: the burstier, the more often there is a queue at
# all at a load below 1. **The prompts against the outputs**: time slicing interrupts decodes cheaply, as long as their
# KV stays.
#
# ## A policy of your own
#
# A policy answers one question: who goes first? This one lets a request overtake those that came earlier if its prompt
# is shorter, by 20 ms per token of difference. Nobody can be overtaken for ever, since ranks only depend on arrival
# and prompt. `check_policy` says whether it keeps the contract; the same object would schedule a real model.

# %%


class Courteous(Policy):
    settled = True  # a rank never changes

    def rank(self, job: Job) -> int:
        return job.arrival + 20_000_000 * job.prompt


print(f"{len(check_policy(Courteous, quick=True).scripts)} scripted runs: it keeps the contract")

# %% [markdown]
# ## The comparison
#
# The gaps are stretched to three loads; 1 is what fcfs can sustain of this trace on this machine. Every policy sees
# the same requests at the same moments. The bracket is a 95 % interval over seeds.

# %%
LOADS = (0.7, 0.9, 1.1)
POLICIES = ("fcfs", Courteous, "sj-mlfq", "srpt")
results = {load: sim.replay(trace, POLICIES, seeds=SEEDS, settings=MACHINE, load=load) for load in LOADS}
print(results[0.9])

# %% [markdown]
# **Look at** the two columns *JCT* and *s per token* together. Where they disagree, ask which of them your users feel:
# the time until an answer is complete, or the pace of short answers.

# %%


def by_load(figure):
    found = figure.subplots(2, 1, sharex=True)
    for axes, measure, title in zip(
        found, ("mean_jct_s", "mean_s_per_token"), ("mean JCT (s)", "mean s per token"), strict=True
    ):
        frames = {load: result.summaries() for load, result in results.items()}
        for label in frames[LOADS[0]]["label"].unique():
            there = [frame[frame["label"] == label] for frame in frames.values()]
            style = look(there[0]["policy"].iloc[0])
            axes.plot(
                LOADS, [one[measure].mean() for one in there], color=style.colour, marker=style.marker,
                linestyle=style.dash, label=label,
            )  # fmt: skip
            low, high = [one[measure].min() for one in there], [one[measure].max() for one in there]
            axes.fill_between(LOADS, low, high, color=style.colour, alpha=0.15, linewidth=0)
        axes.set_ylabel(title)
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    found[1].set_xlabel("load (1 = what fcfs sustains)")
    legend(figure, found[0], 4)


show("your_own_trace-by_load", (COLUMN, 3.4), by_load)

# %% [markdown]
# ## Behind the means
#
# All completion times at load 0.9, and how many requests were in the system while the trace played (seed 0).
#
# **Look at** where the curves cross: left of the crossing a policy wins for those whose answers are short, right of it
# it loses for the others. A policy that is ahead everywhere is rare.

# %%
records = results[0.9].records()


def distribution(figure):
    upper, lower = figure.subplots(2, 1)
    for label, mine in records.groupby("label", sort=False):
        style = look(mine["policy"].iloc[0])
        times = np.sort(mine["jct_from_arrival"])
        upper.plot(times, np.linspace(0, 1, len(times)), color=style.colour, linestyle=style.dash, label=label)
        first = mine[mine["seed"] == 0]
        arrivals, ends = np.sort(first["arrival"]), np.sort(first["end"])
        moments = np.linspace(0, ends[-1], 400)
        live = np.searchsorted(arrivals, moments, side="right") - np.searchsorted(ends, moments, side="right")
        lower.plot(moments, live, color=style.colour, linestyle=style.dash, linewidth=0.9)
    lower.axhline(MACHINE.max_batch, color="#777777", linewidth=0.6)
    upper.set_xscale("log")
    plain_log(upper.xaxis)
    upper.set_xlabel("completion time (s)")
    upper.set_ylabel("share of requests")
    lower.set_xlabel("s since the first arrival")
    lower.set_ylabel("requests in system")
    legend(figure, upper, 4)


show("your_own_trace-behind", (COLUMN, 4.0), distribution)

# %% [markdown]
# The grey line is the batch cap: below it everybody is being served and no order of service can help anybody. How much
# of the time your system spends above it is how much a scheduler has to offer.

# %%
fcfs = records[(records["label"] == "fcfs") & (records["seed"] == 0)]
arrivals, ends = np.sort(fcfs["arrival"]), np.sort(fcfs["end"])
moments = np.linspace(0, arrivals[-1], 2000)
live = np.searchsorted(arrivals, moments, side="right") - np.searchsorted(ends, moments, side="right")
print(f"Above the cap at load 0.9, under fcfs: {np.mean(live > MACHINE.max_batch):.0%} of the time.")

# %% [markdown]
# ## Honest limits
#
# * The order of requests is a scheduler's effect; the *time* of an iteration is a model's. `opt-13b-a100` is a
#   published fit. For your machine, give a roofline or a JSON file with four numbers; absolute seconds are as good as
#   they are.
# * A few hundred requests over a few seeds tell large effects from none, not 3 % from 5 %. Raise `REQUESTS` and
#   `SEEDS`.
# * Stretching gaps to a load keeps their shape and moves every time scale with them, daily cycles too.
# * `python -m experiments.real_traces --trace FILE` asks the same of every policy in the catalogue, at four loads.
