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
# # What skip-join MLFQ buys
#
# A language-model server that works first come, first served has a weakness that everybody has felt at a supermarket: a
# request for three words waits behind one for three pages. *Skip-join MLFQ* (FastServe) interrupts the three pages. It
# does not know who asked for how much; it gives everybody a little service first and the long ones the rest later.
#
# The question of this page is what that buys, **in which unit**. Throughout: OPT-13B on one A100, at most 16 requests
# at once, ShareGPT lengths unless something else is said, and whole prefills mixed with decodes, as in the paper.

# %%
from experiments._lib.case import point, points, ratio
from experiments._lib.figure import COLUMN, curve, legend, look_of, plain_log
from fastserve.metrics.summary import Ratio
from notebooks._page import Runs, mark, show, table

runs = Runs("jct_vs_rate", "fairness_tail", "real_traces")
runs

# %% [markdown]
# ## The same runs, two measures
#
# The load is in units of what fcfs can sustain. The protocol is the paper's artifact's: so many requests arrive, then
# the system drains. *Seconds per output token* divides each request's time by its length before averaging. *Completion
# time* (JCT) does not.
#
# **Look at** the order of the black and the blue line in the two panels. It is not the same order. Open markers: the
# queue grew to the end; everything to the right of load 1 is a snapshot of a queue that grows.

# %%
PANEL = "ShareGPT OPT-13B"
LABELS = ("fcfs", "sj-mlfq", "sj-mlfq (artifact)", "srpt (oracle)")
burst = [row for row in runs["jct_vs_rate"] if row.at["panel"] == PANEL and row.at["protocol"] == "burst"]


def two_measures(figure):
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, measure, title in (
        (upper, "mean_s_per_token", "mean s per token"),
        (lower, "mean_jct_s", "mean JCT (s)"),
    ):
        for label in LABELS:
            curve(axes, [p for p in points(burst, policy=label) if "load" in p.at], "load", measure, label)
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        axes.set_ylabel(title)
    lower.set_xlabel("load (1 = what fcfs sustains)")
    legend(figure, upper, 2)


show("what_mlfq_buys-two_measures", (COLUMN, 3.7), two_measures)

# %% [markdown]
# ## One run, six answers
#
# Take one load above capacity and divide fcfs's number by sj-mlfq's: to the right of 1 sj-mlfq is better, to the left
# fcfs. All six rows come from the same runs.
#
# **Look at** the sign of the answer. First tokens come sooner by far, and short answers gain so much that the mean of
# s/token improves; but the mean completion time, and its tail even more, get worse. That is no accident: time-slicing
# makes jobs of like length finish together, and late. srpt, which is told the output lengths, shows what could be had
# in mean JCT; it is a bound, not a policy that one can run.

# %%
MEASURES = {
    "mean TTFT": "mean_ttft_s",
    "mean s/token": "mean_s_per_token",
    "P95 s/token": "p95_s_per_token",
    "mean JCT": "mean_jct_s",
    "P95 JCT": "p95_jct_s",
    "P99 JCT": "p99_jct_s",
}
loads = sorted({float(row.at["load"]) for row in burst if "load" in row.at})
load = next(load for load in loads if load > 1)
base = point(burst, policy="fcfs", load=load)


def six_answers(figure):
    axes = figure.subplots()
    for shift, label in ((-0.15, "sj-mlfq"), (0.15, "srpt (oracle)")):
        mine = point(burst, policy=label, load=load)
        style = look_of(label)
        for row, measure in enumerate(MEASURES.values()):
            gain = ratio(base, mine, measure)
            mark(axes, gain, row + shift, style.colour, style.marker, label if row == 0 else None)
    axes.axvline(1, color="#777777", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(MEASURES)), list(MEASURES))
    axes.invert_yaxis()
    axes.set_xlabel(f"fcfs over it at load {load:g} (right of 1: better)")
    plain_log(axes.xaxis)
    figure.legend(loc="outside upper center", ncols=2)


show("what_mlfq_buys-six_answers", (COLUMN, 2.6), six_answers)
table(
    ["fcfs over ...", "sj-mlfq", "srpt (oracle)"],
    [
        [name, *(ratio(base, point(burst, policy=label, load=load), measure) for label in ("sj-mlfq", "srpt (oracle)"))]
        for name, measure in MEASURES.items()
    ],
)

# %% [markdown]
# Below capacity, in steady state, with the warm-up cut, the same table is much duller. Most servers are there most of
# the time.

# %%
steady = [row for row in runs["jct_vs_rate"] if row.at["panel"] == PANEL and row.at["protocol"] == "steady"]
below = max(float(row.at["load"]) for row in steady if "load" in row.at)
calm = point(steady, policy="fcfs", load=below)
table(
    [f"fcfs over ..., steady at load {below:g}", "sj-mlfq", "srpt (oracle)"],
    [
        [name, *(ratio(calm, point(steady, policy=label, load=below), m) for label in ("sj-mlfq", "srpt (oracle)"))]
        for name, m in MEASURES.items()
    ],
)

# %% [markdown]
# ## Who pays
#
# Requests by the time that they would take alone, in four classes of equal size; the mean slowdown of each class. A
# flat line is a policy under which everybody waits in proportion to what they asked for.
#
# **Look at** the left end, where fcfs is bad, and at the right end, where the bill arrives. sj-mlfq is flat, and the
# long quarter pays for it. Then read the line below the figure: nobody waits long for the *next* token under the
# MLFQs, while las and srpt let their longest jobs starve for minutes. (These runs have the deployable settings, with
# chunked prefill and the visit guard, and bursty arrivals: CV 2.)

# %%
CLASSES = ("shortest", "short", "long", "longest")
WHO = ("fcfs", "mlfq", "sj-mlfq", "las", "srpt (oracle)")
fair = runs["fairness_tail"]
lengths, crowded = "sharegpt", max(float(row.at["load"]) for row in fair)


def who_pays(figure):
    axes = figure.subplots()
    for label in WHO:
        there = point(fair, lengths=lengths, load=crowded, policy=label)
        style = look_of(label)
        means = [there.mean(f"slowdown_{name}") for name in CLASSES]
        axes.plot(range(4), means, color=style.colour, marker=style.marker, linestyle=style.dash, label=label)
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_xticks(range(4), CLASSES)
    axes.set_xlabel("quarter of the requests, by their time alone")
    axes.set_ylabel("mean slowdown")
    legend(figure, axes, 3)


show("what_mlfq_buys-who_pays", (COLUMN, 2.6), who_pays)
table(
    ["longest wait for a token (s)", *WHO],
    [
        [
            f"{lengths}, load {crowded:g}",
            *(point(fair, lengths=lengths, load=crowded, policy=label).mean("longest_wait_s") for label in WHO),
        ]
    ],
)

# %% [markdown]
# ## Recorded traffic
#
# The first requests of public traces (where they are installed; the bundled one always), their gaps stretched to a
# load of 0.8, batch cap 64, deployable settings.
#
# **Look at** how few points are to the right of 1. At a load at which one would run a server there is hardly a queue
# to reorder, and what time-slicing moves about has a price. The traces with long prompts (code, Mooncake) are where
# the order matters, and there the oracle shows room for a better policy than either.

# %%
recorded = runs["real_traces"]
traces = list(dict.fromkeys(str(row.at["trace"]) for row in recorded))


def against_fcfs(trace: str, label: str, measure: str) -> Ratio | None:
    """Ratio at load 0.8; none where a run was stopped, since its numbers are lower bounds."""
    pair = [point(recorded, trace=trace, load=0.8, policy=policy) for policy in ("fcfs", label)]
    stopped = any(any(there.values("collapsed")) for there in pair)
    return None if stopped else ratio(pair[0], pair[1], measure)


def on_traces(figure):
    found = figure.subplots(1, 2, sharey=True)
    for axes, measure, title in zip(
        found, ("mean_s_per_token", "mean_jct_s"), ("mean s/token", "mean JCT"), strict=True
    ):
        for shift, label in ((-0.15, "sj-mlfq"), (0.15, "srpt (oracle)")):
            style = look_of(label)
            for row, trace in enumerate(traces):
                mark(axes, against_fcfs(trace, label, measure), row + shift, style.colour, style.marker)
        axes.axvline(1, color="#777777", linewidth=0.6)
        axes.set_xscale("log")
        axes.set_title(title)
        plain_log(axes.xaxis)
    found[0].set_yticks(range(len(traces)), traces)
    found[0].set_ylim(len(traces) - 0.5, -0.5)
    figure.supxlabel("fcfs over sj-mlfq (triangles) and over srpt (diamonds)", fontsize=8)


show("what_mlfq_buys-traces", (COLUMN, 1.2 + 0.22 * len(traces)), on_traces)

# %% [markdown]
# ## What to take away
#
# * It buys **first tokens and short answers under overload**, and it needs no prediction for that. In seconds per
#   output token, the paper's measure, the gain is real and large.
# * It does **not** buy mean completion time on chat-like lengths; that gets worse, P99 most of all. With heavier tails
#   it can (`experiments/burstiness.py`): the more unequal the requests, the better for time slicing.
# * Below capacity there is little to buy. Whether the paper's factor of two is a fact about a scheduler or about a
#   queue that grows: see `what_to_believe`.
# * With little KV memory the price can be the server: see `when_it_collapses`.
