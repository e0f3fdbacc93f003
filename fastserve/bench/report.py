"""The result of a run as text, and its warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.metrics.slo import Slo, attained

TITLES = {
    "ttft": "time to first token",
    "tpot": "time per later token",
    "itl": "gap between tokens",
    "e2el": "end to end",
    "client_queue_time": "wait for a slot",
    "e2el_including_client_queue": "the last two together",
}
LOOPS = {
    "open": "open loop: sent when due",
    "capped": "sent when due and when one of {n} slots was free; times count from when they were due",
    "closed": "closed loop, {n} at a time: a request arrives when its slot becomes free",
    "sessions": "sessions: a request arrives when what it waits for was answered and the think time is over",
}


def report(found: Mapping[str, Any]) -> str:
    """The result document as text (see document.py)."""
    lines = [
        f"{found['backend']} {found['model_id'] or ''}  {LOOPS[found['loop']].format(n=found['max_concurrency'])}",
        _row("requests", f"{found['completed']} completed, {_cut(found)}{found['failed']} failed", _unsent(found)),
        _row("duration", _number(found["duration"], "s"), "from the start to the last response: all rates are over it"),
        _row("tokens", f"{found['total_input_tokens']:,} in, {found['total_output_tokens']:,} out", _source(found)),
        _row(
            "offered",
            _number(found["request_offered"], "requests/s"),
            f"they came at {_number(found['from_arrival']['arrival_rps'], 'requests/s')}",
        ),
        _row(
            "throughput",
            _number(found["request_throughput"], "requests/s"),
            _number(found["output_throughput"], "tokens/s out"),
        ),
    ]
    lines += _goodput(found)
    lag = found["dispatch_lag_ms"]
    lines.append(_row("dispatch lag", *[f"{name} {_number(lag[name], 'ms')}" for name in ("p50", "p99", "max")]))
    percents = [key.removesuffix("_e2el_ms") for key in found if key.startswith("p") and key.endswith("_e2el_ms")]
    names = [name for name in TITLES if f"mean_{name}_ms" in found]
    if not percents and names:
        percents = [key.split("_")[0] for key in found if key.startswith("p") and key.endswith(f"_{names[0]}_ms")]
    columns = ["mean", "median", *[percent for percent in percents if percent != "p50"]]
    lines += ["", _table_row("from the send, ms", columns)]
    for name in names:
        lines.append(_table_row(TITLES[name], [_cell(found.get(f"{column}_{name}_ms")) for column in columns]))
    ours = found["from_arrival"]
    columns = ["mean", "p50", "p95", "p99", "max"]
    lines += ["", _table_row("from the arrival, s", columns)]
    for title, name in (
        ("completion time (JCT)", "jct_s"),
        ("time to first token", "ttft_s"),
        ("JCT / token", "s_per_token"),
        ("largest gap", "largest_gap_s"),
    ):
        lines.append(_table_row(title, [_cell(ours[f"{column}_{name}"]) for column in columns]))
    lines += _programs(ours, found["settings"])
    return "\n".join([*lines, *[f"  {error}: {count}" for error, count in found["failures"].items()]])


def _goodput(found: Mapping[str, Any]) -> list[str]:
    """Nothing where no request has an objective; a trace's own count from the arrival alone."""
    ours, lines = found["from_arrival"], []
    if found["request_goodput"] is not None:
        lines.append(_row("goodput", _number(found["request_goodput"], "requests/s"), "met their limits from the send"))
    if ours["slo_attainment"] is not None:
        share = f"{ours['slo_attainment']:.1%} of them met their objectives from the arrival"
        verdict = attained(Slo.parse(found["settings"].get("slo") or Slo()), {"this run": ours["slo_attainment"]})
        lines.append(_row("" if lines else "goodput", _number(ours["goodput_rps"], "requests/s"), share, verdict))
    return lines


def _programs(ours: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Nothing of a run that had none."""
    if ours.get("programs") is None:
        return []

    def several(name: str, which: tuple[str, ...]) -> list[str]:
        return [f"{word} {_number(ours[f'{name}_{word}_s'], 's')}" for word in which]

    counts = [f"{ours[f'programs_{word}']} {word}" for word in ("completed", "abandoned", "unfinished")]
    hits = "not told by the server" if ours["hit_rate"] is None else _cell(ours["hit_rate"])
    unlimited = settings.get("hit_rate_unlimited")
    lines = [
        "",
        _row("programs", ", ".join(counts)),
        _row("rate", _number(ours["programs_per_hour"], "programs an hour"),
             f"counted over {_number(ours['program_window_s'], 's')}, {_number(ours['at_work_mean'], 'at work')}"),
        _row("program time", *several("program_time", ("mean", "p50", "p95", "max"))),
        _row("first turn's TTFT", *several("ttft_first_turn", ("p50", "p99", "max"))),
        _row("hit rate", hits, "" if unlimited is None else f"(of the trace's own blocks, if none is forgotten: "
             f"{_cell(unlimited)})"),
    ]  # fmt: skip
    held = ours["held_mean_s"]
    return lines if held is None else [*lines, _row("held back", f"mean {_number(held, 's')}")]


def warnings(found: Mapping[str, Any]) -> list[str]:
    """Warnings about the validity of the results."""
    warned: list[str] = []
    lag, counts = found["dispatch_lag_ms"], found["counts"]
    if found["late"]:
        warned.append(
            f"late: the p99 dispatch lag is {lag['p99']:.1f} ms, above {lag['limit_p99']:g} ms; the load was not "
            "the scheduled one. Give the client a core of its own, or lower the rate"
        )
    if found["failed"]:
        warned.append(
            f"{found['failed']} requests failed; they are in the records, and outside the latencies from the send"
        )
    if found.get("truncated"):
        warned.append(
            f"{found['truncated']} outputs were truncated by the server before the length asked for; they are outside "
            "all latencies, and it did less work than a server that does not truncate"
        )
    if counts["wrong_outputs"]:
        warned.append(f"{counts['wrong_outputs']} outputs do not have the requested length")
    if counts["wrong_prompts"] and found["backend"] != "openai-chat":
        warned.append(f"{counts['wrong_prompts']} prompts do not have the requested length by the server's count")
    if counts["output_tokens_by"] != "server":
        warned.append("the server reports no token counts: each event is counted as one token")
    if found["from_arrival"]["saturated"]:
        warned.append("saturated: the queue grew until the end, so means depend on the length of the run")
    return warned


def _row(title: str, *cells: str) -> str:
    return f"{title:24}{'   '.join([cell for cell in cells if cell])}"


def _table_row(title: str, cells: list[str]) -> str:
    return f"{title:24}" + "".join([f"{cell:>11}" for cell in cells])


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:,.2f} {unit}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cut(found: Mapping[str, Any]) -> str:
    return f"{found['truncated']} truncated, " if found.get("truncated") else ""


def _unsent(found: Mapping[str, Any]) -> str:
    prefix = "stopped before the end: " if found["interrupted"] else ""
    return f"{prefix}{found['not_sent']} not sent" if found["not_sent"] or prefix else ""


def _source(found: Mapping[str, Any]) -> str:
    return f"(counted by {found['counts']['output_tokens_by']})"
