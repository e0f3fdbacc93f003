"""Whether a run caches prefixes, and of which content: `--prefix-cache auto` decided for a trace."""

from __future__ import annotations

from fastserve.workload import Trace
from fastserve.workload.content import Content, content, unit_of
from sim.settings import Settings


def decided(settings: Settings, trace: Trace) -> Settings:
    """prefix_cache as on or off: auto is on where the trace has programs and block ids."""
    if settings.prefix_cache != "auto":
        return settings
    return settings.with_(prefix_cache="on" if trace.hash_ids is not None and _programs(trace) else "off")


def content_of(settings: Settings, trace: Trace, block: int) -> Content | None:
    """What the prompts share, where that is cached. block: tokens of a KV block. Raises TraceError."""
    if settings.prefix_cache != "on" or trace.hash_ids is None:
        return None
    return content(trace, unit_of(trace, block, settings.prefix_tokens))


def told(settings: Settings, trace: Trace) -> str:
    """One line: which it is, and why."""
    asked = settings.prefix_cache != "auto"
    if asked and settings.prefix_cache == "on" and trace.hash_ids is None:
        return "prefix cache on, as asked, and nothing to be found: the trace has no block ids that tell what is alike"
    if decided(settings, trace).prefix_cache == "on":
        what = f"block ids of {trace.block_size} tokens" + (" and programs" if _programs(trace) else "")
        return f"prefix cache on{', as asked' if asked else ''}: the trace has {what}"
    if asked:
        return "prefix cache off, as asked"
    if trace.hash_ids is None:
        return "prefix cache off: the trace has no block ids that tell which prompts begin alike"
    return "prefix cache off: the trace has block ids but names no programs; --prefix-cache on shares them"


def _programs(trace: Trace) -> bool:
    return trace.program is not None and any(trace.program)
