"""Memory: device and host KV pools in blocks. Link: the transfers between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fastserve.hardware.json_fields import Fields


@dataclass(frozen=True, slots=True)
class Memory:
    """Pools for KV. device_tokens, host_bytes: None is unlimited. bytes_per_token 0 is unknown: copies have size 0.

    A token's KV is 2 (K and V) x layers x KV heads x head size x bytes per number.
    """

    block_tokens: int = 16
    device_tokens: int | None = None
    host_bytes: int | None = None
    bytes_per_token: int = 0

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens must be at least 1, got {self.block_tokens}")
        if self.bytes_per_token < 0:
            raise ValueError(f"bytes_per_token must not be negative, got {self.bytes_per_token}")
        if self.device_tokens is not None and self.device_tokens < self.block_tokens:
            raise ValueError(
                f"a device pool of {self.device_tokens} tokens must hold one block of {self.block_tokens} tokens"
            )
        if self.host_bytes is not None and self.host_bytes < 0:
            raise ValueError(f"host_bytes must not be negative, got {self.host_bytes}")
        if self.host_bytes and not self.bytes_per_token:
            raise ValueError("host_bytes needs bytes_per_token above 0 to know how many blocks it holds")

    @property
    def block_bytes(self) -> int:
        return self.block_tokens * self.bytes_per_token

    @property
    def device_blocks(self) -> int | None:
        """Whole blocks on the device, None if unlimited."""
        return None if self.device_tokens is None else self.device_tokens // self.block_tokens

    def accepted(self, context: int) -> int:
        """Tokens of the longest request that `context` and the device's pool leave room for."""
        return context if self.device_tokens is None else min(context, self.device_tokens)

    @property
    def host_blocks(self) -> int | None:
        """Whole blocks on the host, None if unlimited."""
        if self.host_bytes is None:
            return None
        return self.host_bytes // self.block_bytes if self.host_bytes else 0

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Link:
    """The link between device and host; `out` is device to host. duplex: both directions at full rate at once."""

    out_bytes_per_s: int = 32_000_000_000
    in_bytes_per_s: int = 32_000_000_000
    latency_ns: int = 0  # of each copy
    duplex: bool = True

    def __post_init__(self) -> None:
        if self.out_bytes_per_s < 1 or self.in_bytes_per_s < 1:
            raise ValueError(
                f"a link needs at least 1 byte/s each way, got {self.out_bytes_per_s} out, {self.in_bytes_per_s} in"
            )
        if self.latency_ns < 0:
            raise ValueError(f"latency_ns must not be negative, got {self.latency_ns}")

    def copy_ns(self, bytes: int, out: bool) -> int:
        """One copy alone on the link: latency + bytes / bandwidth, rounded up."""
        rate = self.out_bytes_per_s if out else self.in_bytes_per_s
        return self.latency_ns - (-bytes * 1_000_000_000 // rate)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_memory(fields: Fields) -> Memory:
    memory = Memory(
        fields.integer("block_tokens", 16, least=1),
        fields.optional_integer("device_tokens"),
        fields.optional_integer("host_bytes"),
        fields.integer("bytes_per_token", 0),
    )
    fields.close()
    return memory


def read_link(fields: Fields) -> Link:
    default = Link()
    link = Link(
        fields.integer("out_bytes_per_s", default.out_bytes_per_s, least=1),
        fields.integer("in_bytes_per_s", default.in_bytes_per_s, least=1),
        fields.integer("latency_ns", default.latency_ns),
        fields.flag("duplex", default.duplex),
    )
    fields.close()
    return link
