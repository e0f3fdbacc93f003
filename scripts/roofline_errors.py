"""python scripts/roofline_errors.py [--write docs/machines.md]

How far untuned rooflines are from iteration times that were published or measured: experiments/iteration_fits.csv (the
coefficients that DistServe's authors published for two engines on A100s; points of those fits are the truth here),
experiments/iteration_times.csv (FastServe's paper; our torch body on an H100, results/LOG.md), and decodes of SmolLM2
on one core (tests/hardware/verify_smollm2.json). Prints Markdown; --write puts it between the marks in that page.

Then efficiencies and an overhead are fitted to some of the points and tried on the others.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.hardware import Device, Interconnect, RooflineLatency
from fastserve.hardware.catalogue import read_catalogue

ROOT = Path(__file__).resolve().parent.parent
FITS = ROOT / "experiments" / "iteration_fits.csv"
TIMES = ROOT / "experiments" / "iteration_times.csv"
CORE = ROOT / "tests" / "hardware" / "verify_smollm2.json"
MARKS = ("<!-- errors: python scripts/roofline_errors.py --write docs/machines.md -->", "<!-- /errors -->")

BATCHES, CONTEXT = (1, 16, 64, 128), 512
PROMPTS = (128, 512, 1024, 2048)
ENGINES = {"SwiftTransformer (DistServe/FastServe engine)": "SwiftTransformer", "vLLM": "vLLM (2024)"}


class Point(NamedTuple):
    """An iteration: `batch` decodes with `tokens` of context each, or `batch` whole prompts of `tokens`."""

    engine: str
    machine: str  # MODEL/DEVICE
    phase: str
    batch: int
    tokens: int
    ms: float


def fitted_points() -> Iterator[Point]:
    """From the published coefficients: prefills alone, and decodes at CONTEXT where the pool has room for the batch."""
    with FITS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            one, each, third = (float(row[key]) for key in ("const_ms", "per_token_ms", "third_coef"))
            model, tp = row["model"].removeprefix("facebook/"), int(row["tp"])
            at = (ENGINES[row["engine"]], f"{model}/a100-80g{f'*{tp}' if tp > 1 else ''}", row["phase"])
            if row["phase"] == "prefill":
                for tokens in PROMPTS:
                    yield Point(*at, 1, tokens, one + each * tokens + third * tokens**2)
            else:
                for batch in BATCHES:
                    of_range = (batch < 95) == (row["batch_range"] == "batch < 95")
                    if of_range and batch * CONTEXT <= _pool(at[1]):
                        yield Point(*at, batch, CONTEXT, one + each * batch * (CONTEXT + 1) + third * batch)


def _pool(machine: str) -> int:
    model, _, device = machine.partition("/")
    found = read_catalogue()
    accelerator, devices = found.group(device)
    return accelerator.pool_tokens(found.models[model].shape, devices)


def measured_points() -> list[Point]:
    with TIMES.open(encoding="utf-8", newline="") as file:
        return [
            Point(
                row["engine"], row["machine"].removeprefix("roofline:"), row["phase"], int(row["batch"]),
                int(row["tokens"]), float(row["ms"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def core_points() -> list[Point]:
    """Decodes of SmolLM2 in float32 on one core."""
    rows = json.loads(CORE.read_text(encoding="utf-8"))["rows"]
    return [
        Point("torch body", "smollm2-135m/core", "decode", b, c, ms) for kind, b, c, _, ms in rows if kind == "decode"
    ]


def core_latency() -> RooflineLatency:
    """One core, of which nothing is known: as one of 100 GB/s and 500 GFLOP/s of which a share is to be fitted."""
    shape = replace(read_catalogue().models["smollm2-135m"].shape, dtype_bytes=4)
    return RooflineLatency(shape, Device(500e9, 100e9))


def roofline(machine: str) -> RooflineLatency:
    if machine == "smollm2-135m/core":
        return core_latency()
    model, _, device = machine.partition("/")
    found = read_catalogue()
    accelerator, devices = found.group(device)
    shape = found.models[model].shape
    return RooflineLatency(shape, accelerator.device, machine, "", devices, accelerator.interconnect)


def predicted(latency: RooflineLatency, point: Point) -> float:
    if point.phase == "decode":
        return latency.iteration_ps(point.batch, point.batch * point.tokens, ()) / 1e9
    return latency.iteration_ps(0, 0, [(0, point.tokens)] * point.batch) / 1e9


class Tuned(NamedTuple):
    """What a fit found. all_reduce_us: None where it had no groups to see."""

    compute: float
    memory: float
    layer_us: float
    all_reduce_us: float | None = None

    def of(self, machine: str) -> RooflineLatency:
        """The same roofline with these instead of what is assumed."""
        found = roofline(machine)
        device = replace(
            found.device,
            compute_efficiency=self.compute,
            memory_efficiency=self.memory,
            overhead_ms=0.0,
            layer_overhead_us=self.layer_us,
        )
        joined = found.interconnect
        if joined is not None and self.all_reduce_us is not None:
            joined = replace(joined, latency_us=self.all_reduce_us)
        return RooflineLatency(found.model, device, machine, "", found.devices, joined)

    def __str__(self) -> str:
        reduces = "" if self.all_reduce_us is None else f", {self.all_reduce_us:.0f} us an all-reduce"
        reached = f"{self.compute:.2f} of the arithmetic, {self.memory:.2f} of the bandwidth"
        return f"{reached}, {self.layer_us:.0f} us a layer{reduces}"


SHARES = np.linspace(0.3, 1.0, 36)
OF_A_CORE = np.linspace(0.02, 1.0, 50)


OVERHEADS = range(0, 1001, 5)
"""us a layer"""


def tune(points: Sequence[Point], shares: NDArray[np.float64] = SHARES) -> Tuned:
    """The grid's least mean |log(predicted / measured)|, of one model on one device."""
    parts = [_parts(point) for point in points]
    compute, memory = (np.array([part[i] for part in parts])[:, None, None] for i in (0, 1))
    wanted = np.log(np.array([point.ms for point in points]))[:, None, None]
    best: tuple[float, Tuned] | None = None
    layers = roofline(points[0].machine).model.layers
    for layer_us in OVERHEADS:
        bound = np.maximum(compute / shares[None, :, None], memory / shares[None, None, :])
        error = np.abs(np.log(bound + layers * layer_us / 1e3) - wanted).mean(axis=0)
        i, j = divmod(int(error.argmin()), len(shares))
        if best is None or error[i, j] < best[0]:
            best = float(error[i, j]), Tuned(float(shares[i]), float(shares[j]), float(layer_us))
    assert best is not None
    return best[1]


def tune_all_reduce(base: Tuned, points: Sequence[Point]) -> Tuned:
    """base, with the all-reduce's latency that suits these points of groups best."""

    def error(us: float) -> float:
        tuned = base._replace(all_reduce_us=us)
        return sum(abs(math.log(predicted(tuned.of(point.machine), point) / point.ms)) for point in points)

    return base._replace(all_reduce_us=min((float(us) for us in range(0, 301, 5)), key=error))


def _parts(point: Point) -> tuple[float, float]:
    """ms of its arithmetic and of its memory traffic at peak rates, without overhead."""
    found, parts = roofline(point.machine), []
    for flops, rate in ((1.0, 1e9), (1e9, 1.0)):
        device = replace(
            found.device, flops_per_s=found.device.flops_per_s * flops, bytes_per_s=found.device.bytes_per_s * rate,
            fp8_flops_per_s=0.0, compute_efficiency=1.0, memory_efficiency=1.0, overhead_ms=0.0,
        )  # fmt: skip
        free = Interconnect(1e30)
        parts.append(predicted(RooflineLatency(found.model, device, "", "", found.devices, free), point))
    return parts[0], parts[1]


def errors(points: Iterable[Point], tuned: Tuned | None = None) -> list[float]:
    return [predicted((tuned.of if tuned else roofline)(point.machine), point) / point.ms - 1 for point in points]


def summary(points: Sequence[Point], tuned: Tuned | None = None) -> str:
    found = errors(points, tuned)
    return f"{median(map(abs, found)):.0%} | {min(found):+.0%} to {max(found):+.0%}"


def table(points: Iterable[Point], columns: Sequence[str], head: str) -> list[str]:
    """A row an engine and machine: what was published, and by how much the roofline is off."""
    lines = [f"| {head} | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for (engine, machine), group in groupby(points, key=lambda point: (point.engine, point.machine)):
        rows = list(group)
        cells = [f"{point.ms:.3g} ms, {error:+.0%}" for point, error in zip(rows, errors(rows), strict=True)]
        cells += ["no room"] * (len(columns) - len(rows))
        lines.append(f"| {engine}, `{machine}` | " + " | ".join(cells) + " |")
    return lines


def rendered() -> str:
    fits, measured = list(fitted_points()), measured_points()
    decodes = sorted((p for p in fits if p.phase == "decode"), key=lambda p: (p.engine, p.machine, p.batch))
    prefills = sorted((p for p in fits if p.phase == "prefill"), key=lambda p: (p.engine, p.machine, p.tokens))
    ours = [p for p in measured if p.engine == "torch body"]
    lines = [
        f"Decoding, batches of {', '.join(map(str, BATCHES))}, {CONTEXT} tokens of context each: published, error",
        "",
    ]
    lines += table(decodes, [f"batch {batch}" for batch in BATCHES], "published fit")
    lines += ["", "Prefill of one prompt: published, error", ""]
    lines += table(prefills, [f"{tokens} tokens" for tokens in PROMPTS], "published fit")
    lines += ["", "Single figures: where, published or measured, error", ""]
    lines += ["| what | iteration | ms | roofline | error |", "|---|---|---|---|---|"]
    for point in measured:
        guess = predicted(roofline(point.machine), point)
        what = f"{point.phase}, {point.batch} x {point.tokens}"
        lines.append(
            f"| {point.engine}, `{point.machine}` | {what} | {point.ms:g} | {guess:.3g} | {guess / point.ms - 1:+.0%} |"
        )
    lines += ["", "Fitted to some and tried on the others:", ""]
    lines += ["| fitted to | gives | its own points: median, range | tried on | there: median, range | untuned there |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [_trial(*trial) for trial in trials(fits, ours)]
    return "\n".join(lines) + "\n"


class Trial(NamedTuple):
    """A fit, what it was fitted to and what it is tried on."""

    fitted: str
    tuned: Tuned
    seen: Sequence[Point]
    tried: str
    unseen: Sequence[Point]
    untuned: bool = True


def trials(fits: Sequence[Point], ours: Sequence[Point]) -> Iterator[Trial]:
    for engine in ENGINES.values():
        of = {machine: [p for p in fits if (p.engine, p.machine) == (engine, machine)] for machine in _machines(fits)}
        one = of["opt-13b/a100-80g"]
        base = tune(one)
        groups = [p for machine, points in of.items() if "*" in machine for p in points]
        yield Trial(f"{engine}, OPT-13B, one A100", base, one, "all its groups", groups)
        two = of["opt-13b/a100-80g*2"]
        reduced = tune_all_reduce(base, two)
        rest = [p for p in groups if p.machine != "opt-13b/a100-80g*2"]
        yield Trial("the same, and OPT-13B on 2 for the all-reduce", reduced, [*one, *two], "its other groups", rest)
    small, large = ([p for p in ours if p.machine.startswith(name)] for name in ("llama-3.2-1b", "llama-3.1-8b"))
    yield Trial("torch body, H100, 1B", tune(small), small, "8B", large)
    core = core_points()
    short, long = ([p for p in core if (p.tokens == 64) is near] for near in (True, False))
    yield Trial(
        "torch body, a core as of 500 GFLOP/s and 100 GB/s, SmolLM2, contexts of 64",
        tune(short, OF_A_CORE),
        short,
        "512, 1,536",
        long,
        False,
    )


def _machines(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.machine for point in points))


def _trial(fitted: str, tuned: Tuned, seen: Sequence[Point], tried: str, unseen: Sequence[Point], untuned: bool) -> str:
    before = summary(unseen).replace(" | ", ", ") if untuned else "-"
    own, there = (summary(points, tuned).replace(" | ", ", ") for points in (seen, unseen))
    return f"| {fitted} | {tuned} | {own} | {tried} ({len(unseen)} points) | {there} | {before} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put it between the marks in this page")
    args = parser.parse_args()
    text = rendered()
    if args.write is None:
        print(text, end="")
        return
    page = args.write.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0] + "\n", 1)
    after = rest.split(MARKS[1], 1)[1]
    args.write.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
