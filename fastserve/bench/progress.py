"""Progress line of a run on a terminal."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import TextIO

import numpy as np

from fastserve.bench.loop import Progress

EVERY_S = 0.25
RECENT = 2000
"""Number of last sends that the displayed lag is computed over."""


def line(progress: Progress, now: int) -> str:
    """The progress at `now` (perf_counter ns)."""
    seconds = max(0.0, (now - progress.started) / 1e9)
    sent = len(progress.samples)
    lags = [sample.lag for sample in progress.samples[-RECENT:] if sample.reply.sent]
    lag = f"{float(np.percentile(lags, 99)) / 1e6:.1f}" if lags else "-"
    rates = f"{progress.done / seconds:.1f} req/s, {progress.tokens / seconds:,.0f} tok/s" if seconds > 0 else "-"
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes}:{rest:02d}  sent {sent}/{progress.total}  running {progress.running}  done {progress.done}  "
        f"failed {progress.failed}  {rates}  p99 lag {lag} ms"
    )


async def show(progress: Progress, out: TextIO) -> None:
    """Rewrites one terminal line until cancelled, then clears it."""
    try:
        while True:
            out.write(f"\r\x1b[K{line(progress, perf_counter_ns())}")
            out.flush()
            await asyncio.sleep(EVERY_S)
    finally:
        out.write("\r\x1b[K")
        out.flush()
