"""The table of scripts/bench_clients.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

BASE = "ours, float32"
AIMS = ((1, 1.2), (4, 1.5), (32, 2.5))
"""Clients, and how many times llama.cpp's Q8_0 our 8 bits should make."""


def report(facts: Mapping[str, Any], series: Mapping[str, Mapping[str, Any]]) -> str:
    rounds: dict[int, list[Mapping[str, Any]]] = {}
    for name, found in series.items():
        rounds.setdefault(int(name.split()[0]), []).append(found)
    clients = sorted(rounds)
    speed = median([found["bandwidth"] for found in series.values()]) if series else 0.0
    lines = [
        f"Output tokens a second over HTTP, medians of {max(map(len, rounds.values()), default=0)} rounds; in brackets "
        f"{BASE} over it, median of the ratios within the rounds.",
        f"floor: at 1 client the most that {speed / 1e9:.1f} GB/s of memory let a step's weights through.",
        f"  {'':20}" + "".join(f"{f'{n} clients':>17}" for n in clients) + f"{'MB a step':>12}{'floor':>8}{'of it':>7}",
    ]
    for name in facts:
        cells = "".join(f"{cell(rounds[n], name):>17}" for n in clients)
        size = facts[name]["step_bytes"]
        floor = speed / size if size else None
        alone = rates(rounds.get(1, []), name)
        share = f"{median(alone) / floor:.0%}" if floor and alone else ""
        lines.append(
            f"  {name:20}{cells}{f'{size / 1e6:.0f}' if size else '':>12}{f'{floor:.0f}' if floor else '':>8}{share:>7}"
        )
    lines.append("CPU ms a token of each server's process, which hold beside other programs where there is one thread:")
    for name in facts:
        spent = [[found[name]["cpu_ms"] for found in rounds[n] if name in found] for n in clients]
        lines.append(f"  {name:20}" + "".join(f"{f'{median(it):.1f}' if it else '-':>17}" for it in spent))
    return "\n".join([*lines, "", *aims(rounds)])


def rates(rounds: list[Mapping[str, Any]], name: str) -> list[float]:
    return [found[name]["tok_s"] for found in rounds if name in found]


def ratios(rounds: list[Mapping[str, Any]], over: str, under: str) -> list[float]:
    """over's tokens a second over under's, round by round."""
    return [found[over]["tok_s"] / found[under]["tok_s"] for found in rounds if over in found and under in found]


def cell(rounds: list[Mapping[str, Any]], name: str) -> str:
    found, beside = rates(rounds, name), ratios(rounds, BASE, name)
    if not found:
        return "-"
    return f"{median(found):.1f}" + (f" ({median(beside):.2f})" if beside and name != BASE else "")


def aims(rounds: Mapping[int, list[Mapping[str, Any]]]) -> Iterator[str]:
    for clients, least in AIMS:
        found = ratios(rounds.get(clients, []), "ours, ONNX int8", "llama.cpp Q8_0")
        what = f"  8 bits at {clients} clients, ours over llama.cpp"
        if not found:
            yield f"{what}: not measured"
            continue
        met = "met" if median(found) >= least else "MISSED"
        yield f"{what}: {median(found):.2f} [{min(found):.2f}, {max(found):.2f}] (at least {least}: {met})"
    for clients in sorted(rounds):
        found = ratios(rounds[clients], "ours, half weights", BASE)
        if found:
            spread = f"[{min(found):.2f}, {max(found):.2f}]"
            yield f"  half weights over float32 at {clients} clients: {median(found):.2f} {spread}"
