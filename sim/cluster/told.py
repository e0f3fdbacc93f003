"""What a cluster's run says first: what its routers ask for and will not get."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from fastserve import predictors
from fastserve.routers.spec import RouterSpec
from fastserve.workload import Trace
from sim import prefix_cache
from sim.settings import Settings
from sim.told import WIDTH


def routers_told(routers: Sequence[RouterSpec], settings: Settings, trace: Trace) -> list[str]:
    """Lines; none where every router gets what it asks for."""
    cached = trace.hash_ids is not None and prefix_cache.decided(settings, trace).prefix_cache == "on"
    guessed = predictors.check(settings.predictor)
    lines = []
    if routers and settings.replicas == 1:
        lines.append("there is one replica, which gets everything under any router: --replicas N makes more")
    for spec in routers:
        if "prefixes" in spec.needs and not cached:
            why = "the trace does not say it" if trace.hash_ids is None else "--prefix-cache on caches them"
            lines.append(
                f"router {spec.name} asks what prompts share, and no prefix is cached: it goes by load alone ({why})"
            )
        if "guess" in spec.needs and not guessed:
            mean = "the mean of the answers so far is one"
            lines.append(f"router {spec.name} asks for guesses, and nobody makes any: {mean}")
    return [
        part
        for line in dict.fromkeys(lines)
        for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]
