"""python -m experiments.real_traces --scale small
python -m experiments.real_traces --trace YOUR_FILE --latency opt-13b-a100 --max-batch 64

Question: what would a scheduler other than fcfs gain on recorded traffic, and at which load?

The first requests of public traces, their gaps stretched to loads of 0.5 to 1.2 (1 is what fcfs sustains with the
same settings), under every policy of the testbed. Settings as one would deploy them: chunked prefill, proactive
swapping, the visit guard on. Traces that are not here are left out (FASTSERVE_TRACES names their folder); the bundled
one always runs. Mooncake's prompts are too long for OPT-13B: it runs on the roofline of Llama-3-8B on an H100.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments._lib.case import At, Case, Row, Workload, points, recorded
from experiments._lib.claim import Claim, compared
from experiments._lib.figure import PAGE, cells, curve, draw, legend, plain_log
from experiments._lib.public import folder
from experiments._lib.sweep import ROOT, main
from fastserve.cli.arguments import add_settings
from fastserve.policies.spec import PolicySpec
from sim.replay import replay
from sim.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POLICIES = {
    "fcfs": PolicySpec("fcfs"),
    "mlfq": PolicySpec("mlfq"),
    "sj-mlfq": PolicySpec("sj-mlfq"),
    "sj-mlfq (artifact)": PolicySpec("sj-mlfq", {"preset": "artifact"}),
    "las": PolicySpec("las", {"quantum": 1.0}),
    "fixed-priority": PolicySpec("fixed-priority"),
    "sjf (oracle)": PolicySpec("sjf"),
    "srpt (oracle)": PolicySpec("srpt"),
}
LONG = "roofline:llama-3-8b/h100"
BUNDLED = ROOT / "traces" / "azure-conv-like.jsonl"
PUBLIC = {
    "azure-conv": ("azure_2023/AzureLLMInferenceTrace_conv.csv", "opt-13b-a100"),
    "azure-code": ("azure_2023/AzureLLMInferenceTrace_code.first40min.csv", "opt-13b-a100"),
    "mooncake-conv": ("mooncake/conversation_trace.first40min.jsonl", LONG),
    "arena": ("lmsys_arena/vtc_arena_600s.csv", "opt-13b-a100"),
    "servegen-image": ("servegen/multimodal_mm-image.tar.gz", "opt-13b-a100"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int = 5
    """seed 0 is the trace as it stands; the others put blocks of it together (workload.seeds)"""
    requests: int = 800
    """the first so many of each trace"""
    loads: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2)
    """in units of what fcfs sustains"""
    public: bool = True
    """whether the public traces take part, where they are here"""
    backlog: int = 500
    """live jobs at which a run is stopped"""


SCALES = {
    "smoke": Scale(seeds=2, requests=200, loads=(0.8, 1.2), public=False),
    "small": Scale(),
    "paper": Scale(seeds=10, requests=5000, loads=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2), backlog=2500),
}


def absent(at: At) -> bool:
    """Whether a row's trace is not here, so that its numbers cannot be made again."""
    name = str(at["trace"])
    return name in PUBLIC and not (folder() / PUBLIC[name][0]).exists()


def cases(scale: Scale) -> list[Case]:
    there: dict[str, tuple[Workload, str]] = {"bundled": (recorded(BUNDLED, scale.requests), "opt-13b-a100")}
    for name, (file, latency) in PUBLIC.items():
        if scale.public and not absent({"trace": name}):
            there[name] = (recorded(folder() / file, scale.requests), latency)
    return [
        Case(
            at={"trace": name, "policy": label, "load": load},
            workload=workload,
            settings=Settings(latency=latency, max_batch=64, load=load, max_backlog=scale.backlog),
            policy=policy,
            seed=seed,
            warmup=0.1,
        )
        for name, (workload, latency) in there.items()
        for load in scale.loads
        for seed in range(scale.seeds)
        for label, policy in POLICIES.items()
    ]


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for base in points(rows, policy="fcfs"):
        if float(base.at["load"]) not in (0.8, 1.2):
            continue
        for label in ("sj-mlfq", "sj-mlfq (artifact)", "srpt (oracle)"):
            for other in points(rows, trace=base.at["trace"], load=base.at["load"], policy=label):
                for measure, name in (("mean_jct_s", "mean JCT"), ("mean_s_per_token", "mean s/token")):
                    text = f"{base.at['trace']} at load {base.at['load']:g}: {name}, fcfs over {label}"
                    gain, mark = compared(base, other, measure)
                    found.append(Claim("real traces", text, gain, note=mark))
    return found


def plot(rows: list[Row], folder: Path) -> None:
    for name, measure, title in (
        ("mean_jct", "mean_jct_s", "mean JCT (s)"),
        ("p99_jct", "p99_jct_s", "P99 JCT (s)"),
        ("s_per_token", "mean_s_per_token", "mean s per output token"),
    ):
        _draw_measure(rows, folder, name, measure, title)


def _draw_measure(rows: list[Row], folder: Path, name: str, measure: str, title: str) -> None:
    def fill(figure: Figure) -> None:
        traces = list(dict.fromkeys(str(row.at["trace"]) for row in rows))
        found = cells(figure, len(traces), sharex=True)
        for number, (axes, trace) in enumerate(zip(found, traces, strict=True)):
            for label in POLICIES:
                curve(axes, points(rows, trace=trace, policy=label), "load", measure, label)
            axes.set_yscale("log")
            plain_log(axes.yaxis)
            axes.set_title(trace)
            if number % 3 == 0:
                axes.set_ylabel(title)
        figure.supxlabel(
            "load (1 = what fcfs sustains); open: saturated, cross: stopped in some seed, a lower bound", fontsize=8
        )
        legend(figure, found[0], 4)

    draw(folder, name, (PAGE, 4.4), fill)


def add_options(parser: argparse.ArgumentParser) -> None:
    """For a trace of the user's own."""
    parser.add_argument("--trace", metavar="FILE", help="answer the question for this trace, and print tables")
    add_settings(parser.add_argument_group("with --trace"), Settings, ("latency", "max_batch"))
    parser.add_argument("--num-requests", type=int, help="with --trace: the first so many (default: the scale's)")
    parser.add_argument("--seeds", type=int, help="with --trace: how many (default: the scale's)")


def special(args: argparse.Namespace) -> bool:
    """With --trace: a table per load of the user's own requests."""
    if not getattr(args, "trace", None):
        return False
    scale = SCALES[args.scale]
    workload = recorded(Path(args.trace), args.num_requests or scale.requests)
    contenders = [
        PolicySpec(policy.policy, policy.knobs, "" if policy.needs_guess else label)
        for label, policy in POLICIES.items()
    ]
    for load in scale.loads:
        settings = Settings(
            latency=args.latency, max_batch=args.max_batch, load=load, max_backlog=workload.requests // 2
        )
        seeds = args.seeds or scale.seeds
        print(replay(workload.trace(1.0, 0), contenders, seeds=seeds, settings=settings, processes=args.jobs))
    return True


if __name__ == "__main__":
    sys.exit(main("real_traces"))
