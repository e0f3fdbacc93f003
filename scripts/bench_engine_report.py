"""Tables of make bench-engine, from the measurements of its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

Series = list[dict[str, Any]]
"""What the processes of one series measured, in the order in which they ran: name, and a result or an error."""

OURS = "ours, native"


class Row(NamedTuple):
    """One engine over all rounds. ratios: how many times as fast ours was, by round; none for ours itself."""

    dtype: str
    name: str
    speeds: list[float]
    jcts: list[float]
    ratios: list[float]
    same: float | None  # share of the outputs that begin as ours do; None where that cannot be said


class Aim(NamedTuple):
    """what: a sentence. value: None where it was not measured. least: else it is a most."""

    what: str
    value: float | None
    bound: float
    least: bool

    def __str__(self) -> str:
        if self.value is None:
            return f"  {self.what}: not measured"
        met = self.value >= self.bound if self.least else self.value <= self.bound
        wanted = f"{'at least' if self.least else 'at most'} {self.bound:g}"
        return f"  {self.what}: {self.value:.4g} ({wanted}: {'met' if met else 'MISSED'})"


def rows(series: Mapping[str, Series]) -> list[Row]:
    """Each other engine ran between two runs of ours: its ratio is to their mean."""
    found: dict[tuple[str, str], Row] = {}
    for name, runs in series.items():
        kind, _, rest = name.partition(", ")
        if kind != "engines":
            continue
        dtype = rest.partition(", ")[0]
        for i, run in enumerate(runs):
            if "error" in run:
                continue
            row = found.setdefault((dtype, run["name"]), Row(dtype, run["name"], [], [], [], None))
            row.speeds.append(run["output_tok_s"])
            if run["mean_jct_s"] is not None:
                row.jcts.append(run["mean_jct_s"])
            beside = [runs[j] for j in (i - 1, i + 1) if 0 <= j < len(runs)]
            if run["name"] == OURS or len(beside) < 2 or any("error" in other for other in beside):
                continue
            row.ratios.append(sum(other["output_tok_s"] for other in beside) / 2 / run["output_tok_s"])
            if run["starts"]:
                pairs = list(zip(run["starts"], beside[0]["starts"], strict=True))
                found[dtype, run["name"]] = row._replace(same=sum(a == b for a, b in pairs) / len(pairs))
    return list(found.values())


def aims(series: Mapping[str, Series]) -> Iterator[Aim]:
    """What the engine is to reach."""
    ratio = {(row.dtype, row.name): median(row.ratios) for row in rows(series) if row.ratios}

    def over(dtype: str, name: str) -> float | None:
        return ratio.get((dtype, name))

    vllm, pure = over("bfloat16", "vllm"), over("bfloat16", "PyTorch alone")
    yield Aim("bfloat16, ours over vLLM (1.1 is gone for)", vllm, 0.95, True)
    yield Aim("float32, ours over vLLM", over("float32", "vllm"), 1.3, True)
    yield Aim("bfloat16, ours over transformers' batching", over("bfloat16", "transformers' batching"), 3, True)
    yield Aim("bfloat16, PyTorch alone over vLLM", vllm / pure if vllm and pure else None, 0.4, True)
    policy = good(series, "policy")
    paired = None
    if policy:
        rounds = policy["rounds"]
        paired = median([mlfq / fcfs for mlfq, fcfs in zip(rounds["sj-mlfq"], rounds["fcfs"], strict=True)])
    what = f"sj-mlfq over fcfs in throughput, {policy['preemptions']['sj-mlfq']} preemptions" if policy else "sj-mlfq"
    yield Aim(what, paired, 0.97, True)
    slower = [
        runs for name, runs in series.items() if name.startswith("neighbour") and not any("error" in r for r in runs)
    ]
    pairs = [{run["name"]: run["output_tok_s"] for run in runs} for runs in slower]
    beside = median([pair["alone"] / pair["beside a neighbour"] for pair in pairs]) if pairs else None
    yield Aim("times slower beside a process that holds one core", beside, 3, False)
    host, crowd = good(series, "host"), good(series, "crowd")
    yield Aim("share of an iteration outside the model", host["host_share"] if host else None, 0.05, False)
    waiting = f" with {crowd['waiting']} waiting" if crowd else ""
    yield Aim(f"the Scheduler's share{waiting}", crowd["scheduler_share"] if crowd else None, 0.01, False)


def good(series: Mapping[str, Series], name: str) -> dict[str, Any] | None:
    """The one run of a series, if it succeeded."""
    runs = series.get(name)
    return runs[0] if runs and "error" not in runs[0] else None


def report(settings: Mapping[str, Any], series: Mapping[str, Series]) -> str:
    lines = [
        f"{settings['requests']} requests at once, {settings['threads']} threads, batch cap {settings['cap']}; medians "
        f"over the rounds. Every other engine ran between two runs of ours; `same`: outputs that begin as ours do.",
        f"  {'':9}{'':24}{'tokens/s':>9}{'mean JCT s':>12}{'ours is x times as fast':>26}{'same':>7}",
    ]
    for row in rows(series):
        ratio = f"{median(row.ratios):.2f} [{min(row.ratios):.2f}, {max(row.ratios):.2f}]" if row.ratios else ""
        jct = f"{median(row.jcts):.1f}" if row.jcts else ""
        same = "" if row.same is None else f"{row.same:.0%}"
        lines.append(f"  {row.dtype:9}{row.name:24}{median(row.speeds):9.1f}{jct:>12}{ratio:>26}{same:>7}")
    for name, runs in series.items():
        lines += [f"  FAILED: {name}: {run['name']}: {run['error']}" for run in runs if "error" in run]
    loads = [run["load_average"] for runs in series.values() for run in runs]
    if loads:
        lines.append(f"  load average after the runs: {min(loads):.1f} to {max(loads):.1f}")
    return "\n".join([*lines, "", *map(str, aims(series))])
