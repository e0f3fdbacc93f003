"""LineModel: decode time linear in the context for each batch size; base class of linear fits and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastserve.hardware.base import SHIFT, LatencyModel, steps_on_line
from fastserve.hardware.json_fields import Fields
from fastserve.sched.int64 import i64


@dataclass(frozen=True, slots=True)
class Verify:
    """What a guess costs that a decoding job verifies, as shares of what one more decoding job would cost.

    tokens: of the part that depends on the batch alone. context: of the part for each token of the job's context.
    """

    tokens: float = 1.0
    context: float = 0.5


UNMEASURED: Final = Verify()
"""Of a profile that does not say."""


class LineModel(LatencyModel):
    """decode(batch, context) = constant[batch] + slope[batch] * context, kept as integer lists grown on demand.

    A mixed iteration pays the larger of the two fixed costs once. The decode's fixed cost is that of the smallest
    batch: the intercept of a fit over large batches only is an extrapolation, not a cost that an iteration could share.
    It is never shorter than its prefill alone or its decode alone.

    verify: what guesses cost; an iteration that verifies some is no shorter than a prompt of as many tokens.
    """

    verify: Verify
    _drafted: i64  # the shares of `verify`, of 2 ** SHIFT
    _reread: i64

    _known: i64  # batch sizes below this one have their lines; index 0 is the iteration without decoding jobs
    _constant: list[int]
    _slope: list[int]
    _mixed: list[int]  # stands for the constant when the iteration also prefills
    _prefill_fixed: int  # ps, the prefill's fixed cost
    _extra: int  # ps that a prefill's fixed cost exceeds the decode's by

    def __init__(
        self, name: str, provenance: str, prefill_ps: int, decode_ps: int, verify: Verify = UNMEASURED
    ) -> None:
        super().__init__(name, provenance)
        self.verify = verify
        self._drafted = round(verify.tokens * (1 << SHIFT))
        self._reread = round(verify.context * (1 << SHIFT))
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

    def verify_ps(self, batch: i64, context: i64, drafts: i64, chunks: Sequence[tuple[int, int]] = ()) -> i64:
        ps: i64 = self.iteration_ps(batch, context, chunks)
        if drafts == 0:
            return ps
        rows: i64 = batch + drafts
        if rows >= self._known:
            self._grow(rows)
        constant: i64 = self._constant[batch]
        slope: i64 = self._slope[batch]
        more: i64 = (self._constant[rows] - constant) * self._drafted >> SHIFT
        if more < 0:
            more = 0
        more += slope * (drafts * context // batch * self._reread >> SHIFT)
        least: i64 = self.iteration_ps(0, 0, ((0, rows),)) - constant
        if least > more:
            more = least
        return ps + more


def verify_json(verify: Verify) -> dict[str, object]:
    """Nothing where it was not measured."""
    if verify == UNMEASURED:
        return {}
    return {"verify": {"tokens": verify.tokens, "context": verify.context}}


def read_verify(fields: Fields) -> Verify:
    if "verify" not in fields:
        return UNMEASURED
    part = fields.part("verify")
    verify = Verify(part.number("tokens"), part.number("context"))
    part.close()
    return verify
