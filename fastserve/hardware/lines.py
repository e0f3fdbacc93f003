"""LineModel: decode time linear in the context for each batch size; base class of linear fits and tables."""

from __future__ import annotations

from fastserve.hardware.base import LatencyModel, steps_on_line
from fastserve.sched.int64 import i64


class LineModel(LatencyModel):
    """decode(batch, context) = constant[batch] + slope[batch] * context, kept as integer lists grown on demand.

    A mixed iteration pays the larger of the two fixed costs once. The decode's fixed cost is that of the smallest
    batch: the intercept of a fit over large batches only is an extrapolation, not a cost that an iteration could share.
    It is never shorter than its prefill alone or its decode alone.
    """

    _known: i64  # batch sizes below this one have their lines; index 0 is the iteration without decoding jobs
    _constant: list[int]
    _slope: list[int]
    _mixed: list[int]  # stands for the constant when the iteration also prefills
    _prefill_fixed: int  # ps, the prefill's fixed cost
    _extra: int  # ps that a prefill's fixed cost exceeds the decode's by

    def __init__(self, name: str, provenance: str, prefill_ps: int, decode_ps: int) -> None:
        super().__init__(name, provenance)
        self._prefill_fixed = max(1, prefill_ps)
        self._extra = max(0, self._prefill_fixed - decode_ps)
        self._known = 1
        self._constant = [0]
        self._slope = [0]
        self._mixed = [self._prefill_fixed]

    def line(self, batch: int) -> tuple[int, int]:
        """(constant ps, ps per context token) for batch >= 1, both >= 0."""
        raise NotImplementedError

    def _grow(self, batch: int) -> None:
        size = max(256, 2 * batch)
        for b in range(self._known, size):
            constant, slope = self.line(b)
            constant = max(1, constant)
            self._constant.append(constant)
            self._slope.append(slope)
            self._mixed.append(max(self._prefill_fixed, constant + self._extra))
        self._known = size

    def span_ps(self, k: i64, batch: i64, context: i64) -> i64:
        if batch >= self._known:
            self._grow(batch)
        slope: i64 = self._slope[batch]
        return k * (self._constant[batch] + slope * context) + slope * batch * (k * (k - 1) // 2)

    def steps_for(self, ps: i64, batch: i64, context: i64) -> i64:
        if batch >= self._known:
            self._grow(batch)
        slope: i64 = self._slope[batch]
        return steps_on_line(ps, self._constant[batch] + slope * context, slope * batch)

    def last_ps(self, k: i64, batch: i64, context: i64) -> i64:
        if batch >= self._known:
            self._grow(batch)
        return self._constant[batch] + self._slope[batch] * (context + (k - 1) * batch)
