"""Linear fits: prefill by tokens and squared tokens, decode by sequences and context, in ranges of the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fastserve.hardware.json_fields import Fields, picoseconds
from fastserve.hardware.lines import UNMEASURED, LineModel, Verify, read_verify, verify_json
from fastserve.sched.int64 import i64


@dataclass(frozen=True, slots=True)
class DecodePiece:
    """ms + ms_per_sequence * batch + ms_per_context_token * context, from this batch size up to the next piece."""

    from_batch: int
    ms: float
    ms_per_sequence: float
    ms_per_context_token: float


@dataclass(frozen=True, slots=True)
class PrefillFit:
    """ms once per iteration, ms_per_token * n and ms_per_squared_token * (end^2 - start^2) for each chunk."""

    ms: float
    ms_per_token: float
    ms_per_squared_token: float


class LinearLatency(LineModel):
    """The form of the fits published for DistServe and FastServe's engine. The first piece must start at batch 1."""

    def __init__(
        self,
        prefill: PrefillFit,
        decode: Sequence[DecodePiece],
        name: str = "linear",
        provenance: str = "",
        verify: Verify = UNMEASURED,
    ) -> None:
        starts = [piece.from_batch for piece in decode]
        if not starts or starts[0] != 1 or any(b <= a for a, b in pairwise(starts)):
            raise ValueError(f"{name}: decode pieces must start at batch 1 and then ascend, got from_batch {starts}")
        for piece in decode:
            if not (piece.ms or piece.ms_per_sequence or piece.ms_per_context_token):
                raise ValueError(
                    f"{name}: decoding from batch {piece.from_batch} on takes no time; give 'decode_ms', "
                    "'decode_ms_per_sequence' or 'decode_ms_per_context_token' a value above 0"
                )
        super().__init__(name, provenance, picoseconds(prefill.ms), picoseconds(decode[0].ms), verify)
        self.prefill = prefill
        self.decode = tuple(decode)
        self._per_token = picoseconds(prefill.ms_per_token)
        self._per_squared_token = picoseconds(prefill.ms_per_squared_token)

    def line(self, batch: int) -> tuple[int, int]:
        piece = self.decode[0]
        for later in self.decode:
            if later.from_batch <= batch:
                piece = later
        constant = picoseconds(piece.ms) + picoseconds(piece.ms_per_sequence) * batch
        return constant, picoseconds(piece.ms_per_context_token)

    def iteration_ps(self, batch: i64, context: i64, chunks: Sequence[tuple[int, int]]) -> i64:
        if batch >= self._known:
            self._grow(batch)
        if not chunks:
            return self._constant[batch] + self._slope[batch] * context
        ps: i64 = self._mixed[batch] + self._slope[batch] * context
        per_token: i64 = self._per_token
        squared: i64 = self._per_squared_token
        cached: i64
        tokens: i64
        for cached, tokens in chunks:
            ps += tokens * (per_token + squared * (2 * cached + tokens))  # end^2 - start^2, factored
        return ps

    def to_json(self) -> dict[str, object]:
        first, *later = self.decode
        data: dict[str, object] = {
            "kind": "linear",
            "name": self.name,
            "provenance": self.provenance,
            "prefill_ms": self.prefill.ms,
            "prefill_ms_per_token": self.prefill.ms_per_token,
            "prefill_ms_per_squared_token": self.prefill.ms_per_squared_token,
            **_decode_json(first),
        }
        if later:
            data["decode_pieces"] = [{"from_batch": piece.from_batch, **_decode_json(piece)} for piece in later]
        return data | verify_json(self.verify)


def _decode_json(piece: DecodePiece) -> dict[str, object]:
    return {
        "decode_ms": piece.ms,
        "decode_ms_per_sequence": piece.ms_per_sequence,
        "decode_ms_per_context_token": piece.ms_per_context_token,
    }


def _decode_piece(fields: Fields, from_batch: int) -> DecodePiece:
    return DecodePiece(
        from_batch,
        fields.number("decode_ms", 0),
        fields.number("decode_ms_per_sequence", 0),
        fields.number("decode_ms_per_context_token", 0),
    )


def read_linear(fields: Fields) -> LinearLatency:
    """Coefficients that are left out are 0; `decode_pieces` hold the ranges of larger batches, `verify` the shares."""
    name, provenance = fields.text("name", "linear"), fields.text("provenance")
    prefill = PrefillFit(
        fields.number("prefill_ms", 0),
        fields.number("prefill_ms_per_token", 0),
        fields.number("prefill_ms_per_squared_token", 0),
    )
    pieces = [_decode_piece(fields, 1)]
    for row in fields.rows("decode_pieces"):
        pieces.append(_decode_piece(row, row.integer("from_batch", least=2)))
        row.close()
    verify = read_verify(fields)
    fields.close()
    return LinearLatency(prefill, pieces, name, provenance, verify)
