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
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import sim
from fastserve import Job, Policy, check_policy
from fastserve.workload import describe, read_trace

TRACE = os.environ.get("FASTSERVE_TRACE", Path(sim.__file__).parents[1] / "traces" / "azure-conv-like.jsonl")
REQUESTS = 300  # the first so many; more is better and takes longer
SEEDS = 4  # seed 0 is the trace; the others put it together anew from blocks of successive requests
MACHINE = sim.Settings(latency="opt-13b-a100", max_batch=16)  # try roofline:llama-3-8b/h100, or a JSON file of your own

trace = read_trace(TRACE, rate=1.0).head(REQUESTS)
seen = describe(trace)
pd.DataFrame(
    {
        "requests": [seen.n],
        "span (s)": [seen.span_s],
        "CV of gaps": [seen.gap_cv],
        "prompt mean / p99": [f"{seen.prompt.mean:.0f} / {seen.prompt.p99:.0f}"],
        "output mean / p99": [f"{seen.output.mean:.0f} / {seen.output.p99:.0f}"],
        "rank correlation": [seen.rank_correlation],
    }
).round(3)

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
# The gaps are stretched to five loads; 1 is what fcfs can sustain of this trace on this machine. Every policy sees the
# same requests at the same moments, and a seed has the same requests at every load. Ratios are paired by seed, and the
# bracket is a 95 % interval. The same in a terminal, with a folder to go on from:
#
#     python -m sim sweep TRACE --policy fcfs --policy sj-mlfq --policy srpt --load 0.7:1.1:0.1 --seeds 4 --out out

# %%
POLICIES = ("fcfs", Courteous, "sj-mlfq", "srpt")
curves = sim.sweep(trace, POLICIES, load="0.7:1.1:0.1", seeds=SEEDS, settings=MACHINE)
curves

# %% [markdown]
# **Look at** the two figures together, mean completion time and time per token. Where they disagree, ask which of them
# your users feel: the time until an answer is complete, or the pace of short answers. A band spans the seeds; a hollow
# mark is a queue that grew to the end, so that a longer trace would give a larger figure.

# %%
curves.plot(measures=["mean_jct_s", "mean_s_per_token", "p99_jct_s"])

# %% [markdown]
# Where one policy stops winning against fcfs, with a 95 % interval where every seed says so (no line: it never does):

# %%
curves.crossings()

# %% [markdown]
# ## Behind the means
#
# All completion times at load 0.9, and how many requests were in the system while the trace played (seed 0).
#
# **Look at** where the curves cross: left of the crossing a policy wins for those whose answers are short, right of it
# it loses for the others. A policy that is ahead everywhere is rare.

# %%
near = sim.replay(trace, POLICIES, load=0.9, seeds=SEEDS, settings=MACHINE)
near.plot()

# %%
records = near.records()
first = records[records["seed"] == 0]


def live(mine: pd.DataFrame, moments: np.ndarray) -> np.ndarray:
    """How many requests were in the system at each moment."""
    arrivals, ends = np.sort(mine["arrival"]), np.sort(mine["end"])
    return np.searchsorted(arrivals, moments, side="right") - np.searchsorted(ends, moments, side="right")


figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for label, mine in first.groupby("label", sort=False):
    moments = np.linspace(0, mine["end"].max(), 400)
    axes.plot(moments, live(mine, moments), label=label, linewidth=0.9)
axes.axhline(MACHINE.max_batch, color="#777777", linewidth=0.6)
axes.set_xlabel("s since the first arrival")
axes.set_ylabel("requests in system")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The grey line is the batch cap: below it everybody is being served and no order of service can help anybody. How much
# of the time your system spends above it is how much a scheduler has to offer.

# %%
fcfs = first[first["label"] == "fcfs"]
busy = live(fcfs, np.linspace(0, fcfs["arrival"].max(), 2000)) > MACHINE.max_batch
print(f"Above the cap at load 0.9, under fcfs: {busy.mean():.0%} of the time.")

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
