"""What devices of one group tell each other: the all-reduces of tensor parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from fastserve.hardware.json_fields import Fields

REDUCES_PER_LAYER = 2
"""After the attention and after the MLP."""
MOST_DEVICES = 1024
"""Of a node."""


@dataclass(frozen=True, slots=True)
class Interconnect:
    """Between the devices of one node. bytes_per_s: of a device, one way, as the vendor states it; efficiency: the
    share of it that is reached. latency_us: of one all-reduce of next to nothing. node_devices: in a node.
    """

    bytes_per_s: float
    latency_us: float = 0.0
    efficiency: float = 1.0
    node_devices: int = 8

    def all_reduce_us(self, size: float, devices: int) -> float:
        """Of `size` bytes on each device, as a ring or a switch does it: each sends 2 (n - 1) / n of them."""
        if devices == 1:
            return 0.0
        return self.latency_us + 2e6 * (devices - 1) / devices * size / (self.bytes_per_s * self.efficiency)


def read_interconnect(fields: Fields) -> Interconnect:
    found = Interconnect(
        fields.positive("bytes_per_s"),
        fields.number("latency_us", 0.0),
        fields.share("efficiency"),
        fields.integer("node_devices", 8, least=2),
    )
    if found.node_devices > MOST_DEVICES:
        raise ValueError(f"{fields.where}: 'node_devices' {found.node_devices}; give at most {MOST_DEVICES}")
    fields.close()
    return found
