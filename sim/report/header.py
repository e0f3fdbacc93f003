"""What stands above a table: all settings, the important and the changed ones first."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields

from fastserve.policies.in_words import fact_lines, value_in_words
from sim.report.layout import WIDTH
from sim.report.run import Run
from sim.settings import Settings

FIRST = (
    "trace", "latency", "max_batch", "batching", "token_budget", "residency", "kv_tokens", "host_tokens", "visit",
    "predictor", "rate", "load",
)  # fmt: skip
"""Settings that are read with every result. The others are set apart where they are as --help says."""

APART = ("seeds", "unread", "missing", "resampled", "samples")
"""Settings that have a place of their own."""

DEFAULTS = {field.name: field.default for field in fields(Settings)} | {"prefix_cache": "off"}
"""As --help says; of the prefix cache, what auto comes to where a trace does not tell what its prompts share."""


def header(runs: Sequence[Run], settings: Mapping[str, object]) -> list[str]:
    """All settings: the important and the changed ones, then briefly those at their defaults."""
    seeds = sorted({run.seed for run in runs})
    jobs = sorted({int(run.summary["n"] or 0) for run in runs})
    items = [f"n {_span(jobs)}", f"{'seed' if len(seeds) == 1 else 'seeds'} {_span(seeds)}"]
    usual: list[str] = []
    unset: list[str] = []
    for name, value in settings.items():
        words = name.replace("_", " ")
        if name in APART:
            continue
        if name in FIRST or name not in DEFAULTS or not _usual(name, settings):
            items.append(f"{words} {value_in_words(value)}")
        elif not value:
            unset.append(words)
        else:
            usual.append(f"{words} {value_in_words(value)}")
    items += fact_lines(settings)
    parts = [f"by default: {', '.join(usual)}"] if usual else []
    parts += [f"off: {', '.join(unset)}"] if unset else []
    apart = textwrap.wrap("; ".join(parts), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [*_wrapped(items), *apart]


def _usual(name: str, settings: Mapping[str, object]) -> bool:
    """Whether a setting has its default; a default of one per slot is the batch cap."""
    default = settings.get("max_batch") if name in ("kv_reserve", "prefetch_quota") else DEFAULTS[name]
    return settings[name] == default


def _span(values: Sequence[int]) -> str:
    """0, 1, 2 -> "0-2 (3)"; a single value as it is."""
    if len(values) == 1:
        return f"{values[0]:,}"
    if list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]} ({len(values)})"
    return ", ".join(f"{value:,}" for value in values)


def _wrapped(items: Sequence[str]) -> list[str]:
    """Joins items into lines, broken only between items unless one is too long."""
    lines = [""]
    for item in items:
        joined = f"{lines[-1]}   {item}" if lines[-1] else item
        if len(joined) <= WIDTH:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(item, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line for line in lines if line]
