"""What a run says first: whether prefixes are cached, and how requests come where they wait for others."""

from __future__ import annotations

import textwrap

from fastserve.workload import Trace
from fastserve.workload.programs import groups
from sim import prefix_cache
from sim.settings import Settings

WIDTH = 120


def told_first(settings: Settings, trace: Trace) -> list[str]:
    """Lines; none where nothing is shared and nobody waits."""
    lines = []
    if settings.prefix_cache != "auto" or trace.hash_ids is not None or trace.after is not None:
        lines.append(prefix_cache.told(settings, trace))
    if settings.in_sessions(trace):
        lines.append(sessions(settings, trace))
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def sessions(settings: Settings, trace: Trace) -> str:
    """How its programs come."""
    programs = len(groups(trace))
    what = f"{programs:,} programs of {len(trace):,} requests"
    if settings.open_loop:
        return (
            f"open loop: {what}, each request at its recorded arrival, whatever was answered by then: under load a "
            "request comes before what it repeats was said, so a slow policy gets more work at once and finds less "
            "cached than any client would let it; compare policies in closed loop (--sessions N)"
        )
    if settings.sessions is not None:
        few = f" (there are no more than {programs:,})" if settings.sessions > programs else ""
        how = f"closed loop: {settings.sessions:,} at once{few} of {what}; when one has ended the next begins"
    elif settings.program_rate is not None:
        how = f"{what} begin by themselves, {settings.program_rate:g} a second (Poisson)"
    else:
        how = f"{what} begin when they were recorded to"
    waits = trace.after is not None
    think = "; a request comes when those before it have been answered and the think time is over" if waits else ""
    scale = f", think times times {settings.think_scale:g}" if settings.think_scale != 1 and waits else ""
    cap = f", cut at {settings.think_cap:g} s" if settings.think_cap is not None and waits else ""
    gone = settings.client_timeout
    timeout = (
        "" if gone is None else f"; a client without a first token after {gone:g} s gives up, and its program with it"
    )
    return f"{how}{think}{scale}{cap}{timeout}"
