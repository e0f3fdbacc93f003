"""What a run says first: whether prefixes are cached, and how requests come where they wait for others."""

from __future__ import annotations

import textwrap

from fastserve.workload import Trace
from sim import prefix_cache
from sim.settings import Settings

WIDTH = 100


def told_first(settings: Settings, trace: Trace) -> list[str]:
    """Lines; none where nothing is shared, nobody waits, and all that was asked for can be done."""
    lines = []
    if settings.prefix_cache != "auto" or trace.hash_ids is not None or trace.after is not None:
        lines.append(prefix_cache.told(settings, trace))
    if settings.in_sessions(trace):
        lines.append(settings.coming.told(trace))
    guesses = settings.guesses
    if guesses is not None:
        lines.append(guesses.told())
    lines += [f"{what} changes nothing: {why}" for what, why in _idle(settings, trace)]
    return [
        part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _idle(settings: Settings, trace: Trace) -> list[tuple[str, str]]:
    """Settings that have been given and that this trace leaves without effect, and why."""
    found: list[tuple[str, str]] = []
    cached = trace.hash_ids is not None and prefix_cache.decided(settings, trace).prefix_cache == "on"
    if settings.host_prefix_tokens and not cached:
        found.append((f"host_prefix_tokens={settings.host_prefix_tokens}", "no prefix is cached"))
    if trace.after is None:
        found += [
            (f"{name}={value:g}", "no request of this trace waits for another")
            for name, value, usual in (
                ("think_scale", settings.think_scale, 1.0), ("think_cap", settings.think_cap, None),
            )
            if value is not None and value != usual
        ]  # fmt: skip
    return found
