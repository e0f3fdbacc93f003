"""python -m experiments.batching_gain --scale smoke

Claim (of an earlier server): batching gives 98 % more tokens/s at 4 clients, and 0.86 s to the first token, with a
model of 1.1 billion parameters on a CPU.

The same on our own server: 1, 4, 8 and 16 clients in a closed loop, each with one request at a time, so that nobody
waits for a schedule. "batched" streams from a server with a slot for every client; "static" from one that waits up to
50 ms for a full batch and lets nobody join before all of it have ended, as queue-and-wait servers do; "one slot" from a
server with one; "no batching" asks the first server's /v1/generate_nobatch, which answers one request at a time and all
at once, so that its first token comes with its last. The servers live through the whole run and take turns, on the same
prompts. smoke: the embedded model; small: 114 million random parameters; paper: 1.1 billion.
"""

from __future__ import annotations

import atexit
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._lib.case import Case, Numbers, Row, Workload, mean_of, point, points, ratio
from experiments._lib.claim import Claim, Published
from experiments._lib.figure import PAGE, draw, legend
from experiments._lib.live import ROOT, here
from experiments._lib.sweep import main
from fastserve.atomic_files import atomically
from fastserve.metrics.summary import Ratio
from fastserve.policies.spec import PolicySpec
from sim.report.style import BLACK, BLUE, GREEN, ORANGE, Look
from sim.settings import Settings

if TYPE_CHECKING:
    from fastserve.bench.api import HttpApi
    from fastserve.bench.call import Call
    from fastserve.bench.result import Result
    from fastserve.compare.subprocess_server import ServerProcess

SYSTEMS = {
    "batched": Look(BLUE, "^", "-"), "static": Look(GREEN, "v", "-."), "one slot": Look(ORANGE, "s", "-"),
    "no batching": Look(BLACK, "o", "--"),
}  # fmt: skip
STATIC = ("--batching", "static", "--static-timeout", "0.05")
"""Flags of a server that queues and waits; 50 ms is what such servers call batch_timeout_ms."""

SAID = "an earlier server's statement: 1.1B parameters on a CPU, 4 clients"
GAIN, TTFT = Published(1.98, 1.98, SAID), Published(0.86, 0.86, SAID)
WHY = "another machine and another model: batching pays as far as reading the weights takes the time, not arithmetic"
PATIENCE_S = 3600.0
SOURCES = (
    "fastserve/server", "fastserve/bench", "fastserve/processes", "fastserve/compare/subprocess_server.py",
    "fastserve/compare/http.py",
)  # fmt: skip
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "num_key_value_heads": 4,
    "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama-114m": {"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 12, "num_attention_heads": 12,
                   "tie_word_embeddings": True},
    "llama-1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                   "tie_word_embeddings": False},
}  # fmt: skip
"""Models with random weights, which take the time that trained ones do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    model: str = "llama-114m"
    """embedded, or one of SHAPES"""
    dtype: str = "float32"
    clients: tuple[int, ...] = (1, 4, 8, 16)
    repeats: int = 4
    """paired: each system in turn on the same prompts"""
    requests: int = 48
    """a run; a multiple of every number of clients, so that few of them idle at its end"""
    prompt: int = 32
    output: str = "lognormal:3.3,0.7,4,96"
    """uneven, with a mean of 33: of even ones all of a batch end together, and static batching loses nothing"""


SCALES = {
    "smoke": Scale(model="embedded", clients=(1, 4), repeats=2, requests=4, prompt=8, output="fixed:8"),
    "small": Scale(),
    "paper": Scale(model="llama-1.1b"),
}


def cases(scale: Scale) -> list[Case]:
    workload = Workload(requests=scale.requests, lengths="", prompt=f"fixed:{scale.prompt}", output=scale.output)
    options = {"model": scale.model, "dtype": scale.dtype, "slots": max(scale.clients), "place": here(*SOURCES)}
    return [
        Case(
            at={"system": system, "clients": clients}, workload=workload, settings=Settings(), seed=seed,
            policy=PolicySpec("fcfs"), options=options,
        )
        for seed in range(scale.repeats) for clients in scale.clients for system in SYSTEMS
    ]  # fmt: skip


def run(case: Case) -> Numbers:
    """Tokens/s over the whole run, and the client's own times, s. ValueError if a request fails."""
    from fastserve.bench.api import HttpApi
    from fastserve.bench.api_formats import NoBatch, RequestOptions
    from fastserve.bench.metrics import Selection, client_metrics
    from fastserve.bench.target import TargetClient
    from fastserve.compare.http import api_for, calls_for
    from fastserve.compare.subprocess_server import ServerError

    options = case.options
    slots = 1 if case.at["system"] == "one slot" else int(options["slots"])
    flags = STATIC if case.at["system"] == "static" else ()
    try:
        server = _server(str(options["model"]), str(options["dtype"]), slots, flags)
    except ServerError as error:
        raise ValueError(str(error)) from None
    target = TargetClient(server.url).probe()
    trace = case.workload.trace(1.0, case.seed)
    calls = calls_for(replace(trace, arrival=trace.arrival * 0), target, case.seed)
    api = api_for(server.url, target)
    if case.at["system"] == "no batching":
        request = RequestOptions(model=target.models[0], hide_lengths=True, ignore_eos=True, own=True)
        api = HttpApi(server.url, NoBatch(request))
    result = _sent(calls, api, int(case.at["clients"]))
    found = client_metrics(result, Selection(metrics=("ttft", "tpot", "e2el"), percentiles=(95.0,)))
    failed = next((sample.reply.error for sample in result.samples if not sample.reply.completed), None)
    if failed is not None or found["total_output_tokens"] != int(trace.output.sum()):
        raise ValueError(f"{case.at}: {failed or 'the answers have other lengths than asked for'}; see {server.log}")
    seconds = {f"{name}_s": value and value / 1e3 for key, value in found.items()
               if (name := key.removesuffix("_ms")) != key}  # fmt: skip
    return {"tokens_per_s": found["output_throughput"], "duration_s": found["duration"], **seconds}


def _sent(calls: Sequence[Call], api: HttpApi, clients: int) -> Result:
    """The calls by so many clients, after a few that are not measured."""
    from fastserve.bench.event_loop import on_best_loop, undisturbed
    from fastserve.bench.loop import run as send

    async def both() -> Result:
        try:
            await send(calls[:clients], api, max_concurrency=clients, timeout_s=PATIENCE_S)
            return await send(calls, api, max_concurrency=clients, timeout_s=PATIENCE_S)
        finally:
            api.close()

    with undisturbed():
        return on_best_loop(both())[0]


@lru_cache(maxsize=3)
def _server(model: str, dtype: str, slots: int, more: tuple[str, ...]) -> ServerProcess:
    """Lives until this process ends. An idle one costs nothing: its engine sleeps."""
    from fastserve.compare.subprocess_server import ServerProcess

    flags = ["--policy", "fcfs", "--max-batch", str(slots), "--dtype", dtype, "--kv-tokens", "4096", "--host-tokens",
             "0", "--latency", "opt-13b-a100", "--log-level", "warning", *more]  # fmt: skip
    if model in SHAPES:
        folder = ROOT / "results" / "live" / model
        with atomically(folder / "config.json") as draft:
            draft.write_text(json.dumps(_LLAMA | SHAPES[model]), encoding="utf-8")
        flags += ["--model", str(folder), "--load-format", "dummy"]
    server = ServerProcess(flags)
    atexit.register(server.close)
    return server


def claims(rows: list[Row]) -> list[Claim]:
    found = []
    for clients in dict.fromkeys(row.at["clients"] for row in rows):
        batched, *others = (point(rows, system=system, clients=clients) for system in SYSTEMS)
        for other in others:
            gain = ratio(batched, other, "tokens_per_s")
            text = f"{clients} clients: tokens/s, batched over {other.at['system']}"
            said = GAIN if clients == 4 and other.at["system"] != "static" else None
            found.append(Claim("batching", text, gain, said, WHY))
        for one in (batched, *others):
            mine = mean_of(one, "mean_ttft_s")
            first = TTFT if clients == 4 and one is batched else None
            text = f"{clients} clients: s to the first token, {one.at['system']}"
            found.append(Claim("batching", text, mine, first, WHY, _rate(mean_of(one, "tokens_per_s"))))
        static = point(rows, system="static", clients=clients)
        for measure, what in (("mean_e2el_s", "mean completion time"), ("p95_e2el_s", "95th percentile of it")):
            text = f"{clients} clients: {what}, static over batched"
            found.append(Claim("batching", text, ratio(static, batched, measure), None, WHY))
    return found


def _rate(rate: Ratio | None) -> str:
    return "" if rate is None else f"{rate.mean:.1f} tokens/s"


def plot(rows: list[Row], folder: Path) -> None:
    def fill(figure: Any) -> None:
        panels = figure.subplots(1, 3)
        for axes, measure, label in zip(
            panels, ("tokens_per_s", "mean_ttft_s", "mean_e2el_s"),
            ("tokens/s", "time to first token (s)", "completion time (s)"), strict=True,
        ):  # fmt: skip
            for system, style in SYSTEMS.items():
                mine = points(rows, system=system)
                clients = [float(one.at["clients"]) for one in mine]
                axes.plot(clients, [one.mean(measure) for one in mine], color=style.colour, marker=style.marker,
                          linestyle=style.dash, label=system)  # fmt: skip
                spread = [one.spread(measure) for one in mine]
                axes.fill_between(clients, *zip(*spread, strict=True), color=style.colour, alpha=0.15, linewidth=0)
            axes.set_xlabel("clients in a closed loop")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        legend(figure, panels[0])

    draw(folder, "batching", (PAGE, 2.4), fill)


if __name__ == "__main__":
    sys.exit(main("batching_gain"))
