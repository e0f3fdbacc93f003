"""Common models and devices, and the roofline hardware that any pair of them makes: roofline:llama-3-8b/a100-80g, or
of several devices as one: roofline:llama-3-70b/4xa100-80g.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from importlib.resources import files

from fastserve.hardware.json_fields import Fields
from fastserve.hardware.memory import Link, Memory
from fastserve.hardware.roofline import Device, ModelConfig, RooflineLatency, read_device, read_model

FILE = "roofline.json"
PREFIX = "roofline:"
BLOCK_TOKENS = 16
SEVERAL = re.compile(r"([2-9]|[1-9][0-9])x(.+)")
"""The name of so many devices."""
_USABLE_TENTHS = 9  # of the device's memory, as vLLM and FastServe's engine take it


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device with its memory, its link and one line about it."""

    device: Device
    memory_bytes: int
    host_bytes: int
    link: Link
    about: str

    def times(self, count: int) -> Accelerator:
        """So many as one: rates, memories, links and hosts added up. What they tell each other takes no time."""
        one = self.device
        rates = replace(one, flops_per_s=count * one.flops_per_s, bytes_per_s=count * one.bytes_per_s)
        link = replace(
            self.link,
            out_bytes_per_s=count * self.link.out_bytes_per_s,
            in_bytes_per_s=count * self.link.in_bytes_per_s,
        )
        about = f"{self.about}, as one device"
        return Accelerator(rates, count * self.memory_bytes, count * self.host_bytes, link, about)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """models, the tokens of their contexts, and accelerators by name; provenance covers all of them."""

    models: dict[str, ModelConfig]
    contexts: dict[str, int]
    accelerators: dict[str, Accelerator]
    provenance: str

    def accelerator(self, name: str) -> Accelerator:
        """A device, or several of one kind as one: 4xa100-80g. Raises KeyError."""
        several = None if name in self.accelerators else SEVERAL.fullmatch(name)
        return self.accelerators[several[2]].times(int(several[1])) if several else self.accelerators[name]

    def pool_tokens(self, model: str, device: str) -> int:
        """KV pool after the weights are loaded, in whole blocks; 0 if they do not fit."""
        shape = self.models[model]
        left = self.accelerator(device).memory_bytes * _USABLE_TENTHS // 10 - shape.weight_bytes
        return max(0, left // (shape.kv_bytes_per_token * BLOCK_TOKENS)) * BLOCK_TOKENS

    def latency(self, model: str, device: str) -> RooflineLatency:
        return RooflineLatency(
            self.models[model], self.accelerator(device).device, f"{PREFIX}{model}/{device}", self.provenance
        )

    def memory(self, model: str, device: str) -> Memory:
        """ValueError if the weights leave no room for a block."""
        tokens = self.pool_tokens(model, device)
        shape, accelerator = self.models[model], self.accelerator(device)
        if not tokens:
            raise ValueError(
                f"{model} does not fit {device}: its weights take {shape.weight_bytes / 1e9:.1f} GB of "
                f"{accelerator.memory_bytes * _USABLE_TENTHS / 1e10:.1f} GB usable; choose a larger device"
            )
        return Memory(BLOCK_TOKENS, tokens, accelerator.host_bytes, shape.kv_bytes_per_token)


def read_catalogue() -> Catalogue:
    """The tables shipped in presets/roofline.json."""
    text = files("fastserve.hardware").joinpath("presets").joinpath(FILE).read_text(encoding="utf-8")
    fields = Fields(json.loads(text), FILE)
    assumed = fields.part("assumptions")
    host_bytes = assumed.integer("host_bytes")
    shares = {key: assumed.number(key) for key in ("compute_efficiency", "memory_efficiency", "overhead_ms")}
    assumed.close()
    models, devices = fields.part("models"), fields.part("devices")
    shapes = {name: models.part(name) for name in models.names()}
    contexts = {name: shape.integer("context_tokens", least=1) for name, shape in shapes.items()}
    catalogue = Catalogue(
        {name: read_model(shape) for name, shape in shapes.items()},
        contexts,
        {name: _accelerator(devices.part(name), shares, host_bytes) for name in devices.names()},
        fields.text("provenance"),
    )
    fields.close()
    return catalogue


def _accelerator(fields: Fields, shares: dict[str, float], host_bytes: int) -> Accelerator:
    rates = {key: fields.positive(key) for key in ("flops_per_s", "bytes_per_s")}
    rate = fields.integer("link_bytes_per_s", least=1)
    accelerator = Accelerator(
        read_device(Fields({**rates, **shares}, fields.where)),
        fields.integer("memory_bytes", least=1),
        host_bytes,
        Link(rate, rate, 0, fields.flag("duplex", True)),
        fields.text("about"),
    )
    fields.close()
    return accelerator
