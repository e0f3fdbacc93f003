"""Roofline: an iteration takes as long as its arithmetic or its memory traffic, whichever is longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fastserve.hardware.base import LatencyModel, steps_on_line
from fastserve.hardware.json_fields import Fields


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a dense decoder. mlp_matrices: 3 for a gated MLP, 2 for a plain one; head_size is in numbers.

    kv_size: numbers that a token keeps in each layer, where these are not the keys and values of its heads, as the
    latents of multi-head latent attention (MLA); 0: they are.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocab: int
    mlp_matrices: int = 3
    tied_embeddings: bool = False
    dtype_bytes: int = 2
    kv_size: int = 0

    @property
    def layer_parameters(self) -> int:
        """Of all layers together, biases and norms left out."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + self.mlp_matrices * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Of the output projection."""
        return self.hidden * self.vocab

    @property
    def weight_bytes(self) -> int:
        """What the weights occupy, the input embedding included."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return (self.layer_parameters + embeddings) * self.dtype_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * (self.kv_size or 2 * self.kv_heads * self.head_size) * self.dtype_bytes


@dataclass(frozen=True, slots=True)
class Device:
    """Peak rates as the vendor states them, the share of them that is reached, and a fixed cost of each iteration."""

    flops_per_s: float
    bytes_per_s: float
    compute_efficiency: float = 1.0
    memory_efficiency: float = 1.0
    overhead_ms: float = 0.0


class RooflineLatency(LatencyModel):
    """overhead + max(compute, memory) over the whole iteration, no overlap lost and none gained between its kernels.

    compute: 2 FLOP for each weight and token (the output projection once per sequence or chunk), 4 FLOP for each
    attended pair, head number and layer. memory: the weights once, the KV of each decoding job once, the KV of a
    chunk's whole prefix once, each new token's KV once. Activations are left out.
    """

    def __init__(self, model: ModelConfig, device: Device, name: str = "roofline", provenance: str = "") -> None:
        super().__init__(name, provenance)
        self.model = model
        self.device = device
        ps_per_flop = 1e12 / (device.flops_per_s * device.compute_efficiency)
        ps_per_byte = 1e12 / (device.bytes_per_s * device.memory_efficiency)
        self._overhead = round(device.overhead_ms * 1e9)
        self._token = round(2 * model.layer_parameters * ps_per_flop)
        self._sample = round(2 * model.head_parameters * ps_per_flop)
        self._pair = round(4 * model.layers * model.heads * model.head_size * ps_per_flop)
        self._weights = max(
            1, round((model.layer_parameters + model.head_parameters) * model.dtype_bytes * ps_per_byte)
        )
        self._kv = round(model.kv_bytes_per_token * ps_per_byte)

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        return self._ps(batch, context, context, chunks) if batch or chunks else 0

    def _ps(self, rows: int, context: int, attended: int, chunks: Sequence[tuple[int, int]]) -> int:
        """rows: tokens that are not of chunks. context: tokens whose KV they read; attended: pairs of them."""
        compute = rows * (self._token + self._sample) + attended * self._pair
        memory = self._weights + (rows + context) * self._kv
        for cached, tokens in chunks:
            pairs = tokens * (2 * cached + tokens + 1) // 2  # each new token attends to all before it and itself
            compute += tokens * self._token + self._sample + pairs * self._pair
            memory += (cached + 2 * tokens) * self._kv
        return self._overhead + max(compute, memory)

    def verify_ps(self, batch: int, context: int, drafts: int, chunks: Sequence[tuple[int, int]] = ()) -> int:
        """A guess computes what a decoding job's token does; the KV of a job is read once for all of its tokens."""
        return self._ps(batch + drafts, context, context + drafts * context // batch, chunks)

    def _lines(self, batch: int, context: int) -> tuple[int, int, int, int, int]:
        """(first, growth, until, first after, growth after): the leading bound, when the other takes over, and it.

        Iterations 0 .. until - 1 follow the first line; until = -1: all of them do. As both bounds are straight lines
        in the number of iterations, they change the lead once at most.
        """
        compute = self._overhead + batch * (self._token + self._sample) + context * self._pair
        memory = self._overhead + self._weights + (batch + context) * self._kv
        compute_growth, memory_growth = self._pair * batch, self._kv * batch
        if compute >= memory:
            lead, lead_growth, other, other_growth = compute, compute_growth, memory, memory_growth
        else:
            lead, lead_growth, other, other_growth = memory, memory_growth, compute, compute_growth
        if other_growth <= lead_growth:
            return lead, lead_growth, -1, 0, 0
        until = (lead - other) // (other_growth - lead_growth) + 1
        return lead, lead_growth, until, other + other_growth * until, other_growth

    def span_ps(self, k: int, batch: int, context: int) -> int:
        first, growth, until, first_after, growth_after = self._lines(batch, context)
        if until < 0 or k <= until:
            return k * first + growth * (k * (k - 1) // 2)
        after = k - until
        return (
            until * first
            + growth * (until * (until - 1) // 2)
            + after * first_after
            + growth_after * (after * (after - 1) // 2)
        )

    def steps_for(self, ps: int, batch: int, context: int) -> int:
        first, growth, until, first_after, growth_after = self._lines(batch, context)
        if until >= 0:
            before = until * first + growth * (until * (until - 1) // 2)
            if before < ps:
                return until + steps_on_line(ps - before, first_after, growth_after)
        return steps_on_line(ps, first, growth)

    def to_json(self) -> dict[str, object]:
        return {
            "kind": "roofline",
            "name": self.name,
            "provenance": self.provenance,
            "model": asdict(self.model),
            "device": asdict(self.device),
        }


def read_model(fields: Fields) -> ModelConfig:
    """kv_heads defaults to heads, head_size to hidden / heads."""
    layers, hidden = fields.integer("layers", least=1), fields.integer("hidden", least=1)
    heads = fields.integer("heads", least=1)
    model = ModelConfig(
        layers,
        hidden,
        heads,
        fields.integer("kv_heads", heads, least=1),
        fields.integer("head_size", max(1, hidden // heads), least=1),
        fields.integer("intermediate", least=1),
        fields.integer("vocab", least=1),
        fields.integer("mlp_matrices", 3, least=1),
        fields.flag("tied_embeddings", False),
        fields.integer("dtype_bytes", 2, least=1),
        fields.integer("kv_size", 0, least=0),
    )
    fields.close()
    return model


def read_device(fields: Fields) -> Device:
    device = Device(
        fields.positive("flops_per_s"),
        fields.positive("bytes_per_s"),
        fields.positive("compute_efficiency", 1.0),
        fields.positive("memory_efficiency", 1.0),
        fields.number("overhead_ms", 0.0),
    )
    for key, share in (
        ("compute_efficiency", device.compute_efficiency),
        ("memory_efficiency", device.memory_efficiency),
    ):
        if share > 1:
            raise ValueError(f"{fields.where}: '{key}' is a share of the peak, at most 1, got {share!r}")
    fields.close()
    return device


def read_roofline(fields: Fields) -> RooflineLatency:
    name, provenance = fields.text("name", "roofline"), fields.text("provenance")
    model, device = read_model(fields.part("model")), read_device(fields.part("device"))
    fields.close()
    return RooflineLatency(model, device, name, provenance)
