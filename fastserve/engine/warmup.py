"""What a warm-up has measured, as the times that policies are told: lines through a few steps, a link through copies.

An approximation: `latency=FILE` or a stored profile replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.engine.backend import CopyTime
from fastserve.hardware import DecodePiece, LinearLatency, Link, PrefillFit
from fastserve.hardware.least_squares import fit
from fastserve.hardware.lines import UNMEASURED, Verify


def latency_of(
    prefills: Sequence[tuple[int, float]], decodes: Sequence[tuple[int, int, float]], model: str, where: str,
    verify: Verify = UNMEASURED,
) -> LinearLatency:  # fmt: skip
    """Coefficients are never negative.

    prefills: (tokens, ms). decodes: (jobs, tokens of their contexts summed, ms). where: what it was measured on, in
    words. verify: what a verified guess costs.
    """
    constant, linear, squared = fit([(1.0, n, n * n) for n, _ in prefills], [ms for _, ms in prefills])
    start, each_job, each_token = fit([(1.0, b, c) for b, c, _ in decodes], [ms for *_, ms in decodes])
    return LinearLatency(
        PrefillFit(constant, linear, squared),
        [DecodePiece(1, start, each_job, each_token)],
        name=f"{model}, warm-up",
        provenance=f"measured at load {where}: {len(prefills)} prefills, {len(decodes)} decodes",
        verify=verify,
    )


def link_of(copies: Sequence[CopyTime]) -> Link:
    """From the smallest and the largest copy each way, of a body that makes one at a time; Link() without both."""
    if len(copies) < 4:
        return Link()
    rates, latencies = [], []
    for out in (True, False):
        few, *_, many = sorted((one for one in copies if one.out is out), key=lambda one: one.bytes)
        rate = (many.bytes - few.bytes) / max(many.seconds - few.seconds, many.seconds / 10, 1e-9)
        rates.append(max(1, round(rate)))
        latencies.append(max(0, round((few.seconds - few.bytes / rate) * 1e9)))
    return Link(rates[0], rates[1], max(latencies), duplex=False)
