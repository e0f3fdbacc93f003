"""TableLatency: measured prefill and decode times, interpolated linearly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from fastserve.hardware.json_fields import Fields, picoseconds
from fastserve.hardware.lines import UNMEASURED, LineModel, Verify, read_verify, verify_json


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    """A whole prompt of this many tokens, alone, took so long."""

    tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """One decode iteration at this batch size took ms + ms_per_context_token * (sum of contexts)."""

    batch: int
    ms: float
    ms_per_context_token: float


class TableLatency(LineModel):
    """Prefill: the first segment is extrapolated to 0 tokens for the fixed cost, the last one beyond the last length.

    A chunk costs the difference of its end's and its start's time, so chunks add up to the whole prompt plus their
    fixed costs. Decode: below the smallest measured batch its row applies; above the largest, its slope applies and its
    constant is extrapolated from the last two rows.
    """

    def __init__(
        self,
        prefill: Sequence[PrefillPoint],
        decode: Sequence[DecodePoint],
        name: str = "table",
        provenance: str = "",
        verify: Verify = UNMEASURED,
    ) -> None:
        if len(prefill) < 2:
            raise ValueError(f"{name}: 'prefill' needs the times of at least two lengths, got {len(prefill)}")
        if not decode:
            raise ValueError(f"{name}: 'decode' needs at least one row")
        for a, b in pairwise(prefill):
            if b.tokens <= a.tokens or b.ms < a.ms:
                raise ValueError(
                    f"{name}: prefill times must rise with ascending lengths, but {a.tokens} tokens take {a.ms} ms and "
                    f"{b.tokens} tokens {b.ms} ms; sort the rows and measure again, or keep the running maximum"
                )
        for row, following in pairwise(decode):
            if following.batch <= row.batch:
                raise ValueError(
                    f"{name}: decode rows must ascend in batch, {row.batch} comes before {following.batch}"
                )
        if decode[0].batch < 1:
            raise ValueError(f"{name}: a decode row needs a batch of at least 1, got {decode[0].batch}")
        for row in decode:
            if not (row.ms or row.ms_per_context_token):
                raise ValueError(f"{name}: decoding at batch {row.batch} takes no time; give it 'ms' above 0")
        self.prefill = tuple(prefill)
        self.decode = tuple(decode)
        self._lengths = [point.tokens for point in prefill]
        self._times = [picoseconds(point.ms) for point in prefill]
        self._batches = [row.batch for row in decode]
        self._constants = [picoseconds(row.ms) for row in decode]
        self._slopes = [picoseconds(row.ms_per_context_token) for row in decode]
        if self._lengths[0] > 0:
            rise, run = self._times[1] - self._times[0], self._lengths[1] - self._lengths[0]
            self._times.insert(0, max(0, self._times[0] - rise * self._lengths[0] // run))
            self._lengths.insert(0, 0)
        super().__init__(name, provenance, self._times[0], self._constants[0], verify)

    def prefix_ps(self, tokens: int) -> int:
        """Prefill time of this many tokens, fixed cost included; increasing in tokens."""
        lengths, times = self._lengths, self._times
        i = min(bisect_right(lengths, tokens), len(lengths) - 1)
        start, low = lengths[i - 1], times[i - 1]
        return low + (times[i] - low) * (tokens - start) // (lengths[i] - start)

    def line(self, batch: int) -> tuple[int, int]:
        batches, constants, slopes = self._batches, self._constants, self._slopes
        i = bisect_right(batches, batch)
        if i == 0 or len(batches) == 1:
            return constants[0], slopes[0]
        if i == len(batches):
            rise, run = max(0, constants[-1] - constants[-2]), batches[-1] - batches[-2]
            return constants[-1] + rise * (batch - batches[-1]) // run, slopes[-1]
        along, run = batch - batches[i - 1], batches[i] - batches[i - 1]
        return (
            constants[i - 1] + (constants[i] - constants[i - 1]) * along // run,
            slopes[i - 1] + (slopes[i] - slopes[i - 1]) * along // run,
        )

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        if batch >= self._known:
            self._grow(batch)
        if not chunks:
            return self._constant[batch] + self._slope[batch] * context
        ps = self._mixed[batch] + self._slope[batch] * context
        for cached, tokens in chunks:
            ps += self.prefix_ps(cached + tokens) - self.prefix_ps(cached)
        return ps

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "table",
            "name": self.name,
            "provenance": self.provenance,
            "prefill": [asdict(point) for point in self.prefill],
            "decode": [asdict(row) for row in self.decode],
            **verify_json(self.verify),
        }


def read_table(fields: Fields) -> TableLatency:
    name, provenance = fields.text("name", "table"), fields.text("provenance")
    prefill: list[PrefillPoint] = []
    for row in fields.rows("prefill"):
        prefill.append(PrefillPoint(row.integer("tokens"), row.number("ms")))
        row.close()
    decode: list[DecodePoint] = []
    for row in fields.rows("decode"):
        decode.append(
            DecodePoint(row.integer("batch", least=1), row.number("ms"), row.number("ms_per_context_token", 0))
        )
        row.close()
    verify = read_verify(fields)
    fields.close()
    return TableLatency(prefill, decode, name, provenance, verify)
