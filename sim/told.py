"""What a run says first: whether prefixes are cached, and how requests come where they wait for others."""

from __future__ import annotations

import textwrap

from fastserve.workload import Trace
from sim import prefix_cache
from sim.settings import Settings

WIDTH = 120


def told_first(settings: Settings, trace: Trace) -> list[str]:
    """Lines; none where nothing is shared and nobody waits."""
    lines = []
    if settings.prefix_cache != "auto" or trace.hash_ids is not None or trace.after is not None:
        lines.append(prefix_cache.told(settings, trace))
    if settings.in_sessions(trace):
        lines.append(settings.coming.told(trace))
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
