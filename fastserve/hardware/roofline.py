"""Roofline: an iteration takes as long as its arithmetic or its memory traffic, whichever is longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fastserve.hardware.base import LatencyModel, steps_on_line
from fastserve.hardware.interconnect import REDUCES_PER_LAYER, Interconnect, read_interconnect
from fastserve.hardware.json_fields import Fields
from fastserve.hardware.shape import Experts, ModelConfig, read_model


@dataclass(frozen=True, slots=True)
class Device:
    """Peak rates as the vendor states them, the share of them that is reached, and a fixed cost of each iteration.

    flops_per_s: of 16-bit numbers. fp8_flops_per_s: of weights of 8 bits; 0: they are computed as 16 bits.
    layer_overhead_us: the fixed cost that grows with the model's layers, as that of starting kernels does.
    """

    flops_per_s: float
    bytes_per_s: float
    compute_efficiency: float = 1.0
    memory_efficiency: float = 1.0
    overhead_ms: float = 0.0
    fp8_flops_per_s: float = 0.0
    layer_overhead_us: float = 0.0


class RooflineLatency(LatencyModel):
    """overhead + max(compute, memory) over the whole iteration, no overlap lost and none gained between its kernels.

    compute: 2 FLOP for each weight that a token goes through (the output projection once per sequence or chunk), and
    for each attended pair and layer what its heads take. memory: the weights once, of experts those that somebody goes
    through; the KV of each decoding job once, the KV of a chunk's whole prefix once, each new token's KV once; states
    of linear attention there and back. Activations are left out.

    Of `devices` devices, tensor parallel, each does its share of both, and then they wait for two all-reduces a layer.
    How many experts are touched: as many as tokens that choose theirs uniformly would touch in the mean.
    """

    def __init__(
        self,
        model: ModelConfig,
        device: Device,
        name: str = "roofline",
        provenance: str = "",
        devices: int = 1,
        interconnect: Interconnect | None = None,
    ) -> None:
        super().__init__(name, provenance)
        check_group(model, devices, interconnect, name)
        self.model = model
        self.device = device
        self.devices = devices
        self.interconnect = interconnect
        rate = device.fp8_flops_per_s if model.weight_bits == 8 else 0.0
        ps_per_flop = 1e12 / (device.flops_per_s * device.compute_efficiency) / devices
        ps_per_product = 1e12 / ((rate or device.flops_per_s) * device.compute_efficiency) / devices
        ps_per_byte = 1e12 / (device.bytes_per_s * device.memory_efficiency)
        # ps of an iteration; of a token through the layers, of one through the head, and of both with its windows
        self._fixed = round(device.overhead_ms * 1e9) + round(model.layers * device.layer_overhead_us * 1e6)
        self._token = round(2 * model.active_parameters * ps_per_product) + round(model.state_flops * ps_per_flop)
        self._sample = round(2 * model.head_parameters * ps_per_flop)
        self._step = self._token + self._sample
        # ps of one token and one that it attends to: in a decode, in a prompt, in the layers with a window
        full = model.full_layers
        self._pair = round(full * model.pair_flops(decode=True) * ps_per_flop)
        self._prefill_pair = round(full * model.pair_flops(decode=False) * ps_per_flop)
        self._window_pair = round(model.window_layers * model.pair_flops(decode=False) * ps_per_flop)
        self._step += model.window * self._window_pair
        # ps of reading: the weights that all tokens share, the experts by tokens, a token's KV, what a job keeps
        head_bytes = model.head_parameters * model.dtype_bytes
        self._weights = max(1, round((model.shared_bytes + head_bytes) * ps_per_byte / devices))
        self._touched = _touched(model.experts, model.expert_bytes * ps_per_byte / devices)
        self._most = len(self._touched) - 1
        self._kv = round(model.kv_bytes(devices) * ps_per_byte)
        self._window_kv = round(model.window_bytes(devices) * ps_per_byte)
        self._state = round(2 * model.state_bytes * ps_per_byte / devices)  # and of writing it
        self._job = self._window_kv + self._state
        # ps of the all-reduces of an iteration, and more for each of its tokens
        self._reduce = self._row = 0
        if interconnect is not None and devices > 1:
            reduces = REDUCES_PER_LAYER * model.layers
            bare = interconnect.all_reduce_us(0, devices)
            self._reduce = round(reduces * bare * 1e6)
            row = interconnect.all_reduce_us(model.hidden * model.dtype_bytes, devices) - bare
            self._row = round(reduces * row * 1e6)
        self._fixed += self._reduce
        self._decode: dict[int, tuple[int, int]] = {}  # by batch, filled by _decoding

    def iteration_ps(self, batch: int, context: int, chunks: Sequence[tuple[int, int]]) -> int:
        if chunks:
            return self._ps(batch, batch, context, context, chunks)
        if not batch:
            return 0
        compute, memory = self._decode.get(batch) or self._decoding(batch)
        return max(compute + context * self._pair, memory + context * self._kv)

    def _decoding(self, batch: int) -> tuple[int, int]:
        """(compute, memory) of so many decoding jobs but for what grows with their contexts."""
        fixed = self._fixed + batch * self._row
        memory = self._weights + self._touched[min(batch, self._most)] + batch * (self._kv + self._job)
        self._decode[batch] = fixed + batch * self._step, fixed + memory
        return self._decode[batch]

    def _ps(self, rows: int, jobs: int, context: int, attended: int, chunks: Sequence[tuple[int, int]]) -> int:
        """rows: tokens that are not of chunks, of so many jobs. context: tokens whose KV they read; attended: pairs."""
        window = self.model.window
        compute = rows * self._step + attended * self._pair
        memory = self._weights + (rows + context) * self._kv + jobs * self._job
        for cached, tokens in chunks:
            pairs = tokens * (2 * cached + tokens + 1) // 2  # each new token attends to all before it and itself
            compute += tokens * self._token + self._sample + pairs * self._prefill_pair
            memory += (cached + 2 * tokens) * self._kv + self._state
            rows += tokens
            if window:
                compute += _windowed(cached, tokens, window) * self._window_pair
                memory += (min(cached, window) + 2 * tokens) * self._window_kv // window
        memory += self._touched[min(rows, self._most)]
        return self._fixed + rows * self._row + max(compute, memory)

    def reduces_ms(self, rows: int) -> float:
        """Of an iteration of so many tokens, what its all-reduces take; 0 on one device."""
        return (self._reduce + rows * self._row) / 1e9

    def verify_ps(self, batch: int, context: int, drafts: int, chunks: Sequence[tuple[int, int]] = ()) -> int:
        """A guess computes what a decoding job's token does; the KV of a job is read once for all of its tokens."""
        return self._ps(batch + drafts, batch, context, context + drafts * context // batch, chunks)

    def _lines(self, batch: int, context: int) -> tuple[int, int, int, int, int]:
        """(first, growth, until, first after, growth after): the leading bound, when the other takes over, and it.

        Iterations 0 .. until - 1 follow the first line; until = -1: all of them do. As both bounds are straight lines
        in the number of iterations, they change the lead once at most.
        """
        compute, memory = self._decode.get(batch) or self._decoding(batch)
        compute += context * self._pair
        memory += context * self._kv
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
        device = asdict(self.device)
        for key in ("fp8_flops_per_s", "layer_overhead_us"):
            if not device[key]:
                del device[key]
        group: dict[str, object] = {}
        if self.devices > 1 and self.interconnect is not None:
            group = {"devices": self.devices, "interconnect": asdict(self.interconnect)}
        return {
            "kind": "roofline",
            "name": self.name,
            "provenance": self.provenance,
            "model": self.model.to_json(),
            "device": device,
            **group,
        }


def check_group(model: ModelConfig, devices: int, interconnect: Interconnect | None, name: str) -> None:
    """ValueError where so many devices cannot share the model's heads, or are not joined."""
    if devices == 1:
        return
    if devices < 1:
        raise ValueError(f"{name}: a group needs at least 1 device, got {devices}")
    if interconnect is None:
        raise ValueError(
            f"{name}: nothing is known of what joins {devices} of this device (its 'interconnect'); take one of it"
        )
    if devices > interconnect.node_devices:
        raise ValueError(
            f"{name}: {devices} devices, and a node has {interconnect.node_devices}; this is tensor parallelism in one "
            "node"
        )
    if model.heads % devices:
        able = [str(count) for count in range(2, interconnect.node_devices + 1) if model.heads % count == 0]
        raise ValueError(
            f"{name}: {model.heads} heads cannot be shared evenly among {devices} devices; of the counts up to "
            f"{interconnect.node_devices}, {', '.join(able) or 'none'} can"
        )


UNIT = 60
"""Shares of experts are whole numbers of 2 ** -60."""


def _touched(experts: Experts | None, expert_ps: float) -> list[int]:
    """ps to read the experts that so many tokens touch, by the number of tokens; the last one stands for more.

    Uniform choice: a token leaves an expert out with probability q = 1 - per_token / count, n tokens with q ** n.
    """
    if experts is None:
        return [0]
    missed, q = 1 << UNIT, ((experts.count - experts.per_token) << UNIT) // experts.count
    whole = round(experts.count * expert_ps)
    found = [0]
    while missed:
        missed = missed * q >> UNIT
        found.append(whole - (whole * missed >> UNIT))
    return found


def _windowed(cached: int, tokens: int, window: int) -> int:
    """Pairs of a chunk in a layer with a window: each token attends to itself and to the window - 1 before it."""
    growing = max(0, min(tokens, window - cached))  # tokens that have fewer before them than the window holds
    return growing * (2 * cached + growing + 1) // 2 + (tokens - growing) * window


def read_device(fields: Fields) -> Device:
    device = Device(
        fields.positive("flops_per_s"),
        fields.positive("bytes_per_s"),
        fields.share("compute_efficiency"),
        fields.share("memory_efficiency"),
        fields.number("overhead_ms", 0.0),
        fields.number("fp8_flops_per_s", 0.0),
        fields.number("layer_overhead_us", 0.0),
    )
    fields.close()
    return device


def read_roofline(fields: Fields) -> RooflineLatency:
    name, provenance = fields.text("name", "roofline"), fields.text("provenance")
    model, device = read_model(fields.part("model")), read_device(fields.part("device"))
    devices = fields.integer("devices", 1, least=1)
    joined = read_interconnect(fields.part("interconnect")) if "interconnect" in fields else None
    fields.close()
    return RooflineLatency(model, device, name, provenance, devices, joined)
