"""Common models and devices, and the roofline that any pair of them makes: roofline:llama-3-8b/a100-80g; of a group
that shares the model by tensors: roofline:llama-3-70b/h100*8; or of several as one device: roofline:.../4xa100-80g.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from importlib.resources import files

from fastserve.hardware.interconnect import Interconnect
from fastserve.hardware.json_fields import Fields
from fastserve.hardware.memory import Link, Memory
from fastserve.hardware.roofline import Device, read_device
from fastserve.hardware.shape import ModelConfig, read_model

FILE = "roofline.json"
PREFIX = "roofline:"
BLOCK_TOKENS = 16
SEVERAL = re.compile(r"([2-9]|[1-9][0-9])x(.+)")
"""The name of so many devices as one."""
GROUP = re.compile(r"(.+)\*([1-9][0-9]?)")
"""The name of so many devices that share a model by tensors."""
USABLE_TENTHS = 9  # of the device's memory, as vLLM and FastServe's engine take it


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device with its memory, its link and what joins it to others of its kind; about: its form; source: of these."""

    device: Device
    memory_bytes: int
    host_bytes: int
    link: Link
    about: str = ""
    interconnect: Interconnect | None = None
    source: str = ""

    def times(self, count: int) -> Accelerator:
        """So many as one: rates, memories, links and hosts added up. What they tell each other takes no time."""
        one = self.device
        rates = replace(
            one,
            flops_per_s=count * one.flops_per_s,
            bytes_per_s=count * one.bytes_per_s,
            fp8_flops_per_s=count * one.fp8_flops_per_s,
        )
        about = f"{self.about}, as one device"
        return Accelerator(rates, count * self.memory_bytes, count * self.host_bytes, self.links(count), about)

    def links(self, count: int) -> Link:
        """The links of so many, each of which moves its own slice."""
        out, into = self.link.out_bytes_per_s, self.link.in_bytes_per_s
        return replace(self.link, out_bytes_per_s=count * out, in_bytes_per_s=count * into)

    def pool_tokens(self, shape: ModelConfig, devices: int = 1) -> int:
        """Of the KV pool after the weights are loaded, in whole blocks; 0 if they do not fit."""
        left = self.usable_bytes(devices) - shape.weight_bytes
        return max(0, left // (devices * shape.kv_bytes(devices) * BLOCK_TOKENS)) * BLOCK_TOKENS

    def usable_bytes(self, devices: int) -> int:
        return devices * self.memory_bytes * USABLE_TENTHS // 10

    def memory(self, shape: ModelConfig, devices: int, who: str) -> Memory:
        """Pools of the group together. ValueError, with `who` in it, if the weights leave no room for a block."""
        tokens = self.pool_tokens(shape, devices)
        if not tokens:
            raise ValueError(
                f"{who}: its weights take {shape.weight_bytes / 1e9:.1f} GB of {self.usable_bytes(devices) / 1e9:.1f} "
                "GB usable; choose a larger device"
            )
        return Memory(BLOCK_TOKENS, tokens, devices * self.host_bytes, devices * shape.kv_bytes(devices))


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogued model. context: tokens that it takes. stated: parameters as its publisher says, 0 if it does not.

    source: where its sizes stand.
    """

    shape: ModelConfig
    context: int
    stated: float
    source: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """models and accelerators by name; provenance covers all of them."""

    models: dict[str, Model]
    accelerators: dict[str, Accelerator]
    provenance: str

    def group(self, name: str) -> tuple[Accelerator, int]:
        """A device and how many of it: (h100, 8) for h100*8, (four as one, 1) for 4xa100-80g. Raises KeyError."""
        if name in self.accelerators:
            return self.accelerators[name], 1
        if several := SEVERAL.fullmatch(name):
            return self.accelerators[several[2]].times(int(several[1])), 1
        if group := GROUP.fullmatch(name):
            return self.accelerators[group[1]], int(group[2])
        raise KeyError(name)


def read_catalogue() -> Catalogue:
    """The tables shipped in presets/roofline.json."""
    text = files("fastserve.hardware").joinpath("presets").joinpath(FILE).read_text(encoding="utf-8")
    fields = Fields(json.loads(text), FILE)
    assumed = fields.part("assumptions")
    host_bytes = assumed.integer("host_bytes")
    shares = {key: assumed.number(key) for key in ("compute_efficiency", "memory_efficiency", "overhead_ms")}
    joined = {key: assumed.number(f"interconnect_{key}") for key in ("efficiency", "latency_us", "bus_latency_us")}
    assumed.close()
    models, devices = fields.part("models"), fields.part("devices")
    catalogue = Catalogue(
        {name: _model(models.part(name)) for name in models.names()},
        {name: _accelerator(devices.part(name), shares, joined, host_bytes) for name in devices.names()},
        fields.text("provenance"),
    )
    fields.close()
    return catalogue


def _model(fields: Fields) -> Model:
    context = fields.integer("context_tokens", least=1)
    stated, source = fields.number("stated_parameters", 0), fields.text("source")
    return Model(read_model(fields), context, stated, source)


def _accelerator(fields: Fields, shares: dict[str, float], joined: dict[str, float], host_bytes: int) -> Accelerator:
    rates = {key: fields.positive(key) for key in ("flops_per_s", "bytes_per_s")}
    rates["fp8_flops_per_s"] = fields.number("fp8_flops_per_s", 0.0)
    rate = fields.integer("link_bytes_per_s", least=1)
    accelerator = Accelerator(
        read_device(Fields({**rates, **shares}, fields.where)),
        fields.integer("memory_bytes", least=1),
        host_bytes,
        Link(rate, rate, 0, fields.flag("duplex", True)),
        fields.text("about"),
        _interconnect(fields, joined),
        fields.text("source"),
    )
    fields.close()
    return accelerator


def _interconnect(fields: Fields, joined: dict[str, float]) -> Interconnect | None:
    """None for a device that there is no more than one of."""
    if "interconnect_bytes_per_s" not in fields:
        return None
    over_bus = fields.flag("interconnect_is_bus", False)
    latency = joined["bus_latency_us" if over_bus else "latency_us"]
    return Interconnect(fields.positive("interconnect_bytes_per_s"), latency, joined["efficiency"])
