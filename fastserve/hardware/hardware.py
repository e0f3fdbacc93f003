"""Hardware: a latency model with its memory and link; loaded from a preset, a JSON file or a roofline's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path

from fastserve.hardware import catalogue
from fastserve.hardware.base import LatencyModel
from fastserve.hardware.json_fields import Fields, read_json
from fastserve.hardware.memory import Link, Memory, read_link, read_memory
from fastserve.hardware.registry import latency_from_json
from fastserve.hardware.roofline import RooflineLatency
from fastserve.hardware.shape import ModelConfig

DEFAULT = "opt-13b-a100"
"""The preset where no machine is named."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A modelled machine: latency model, memory, link. context: tokens that its model takes, its output included;
    None is not known.
    """

    latency: LatencyModel
    memory: Memory
    link: Link
    about: str = ""  # one line for listings
    context: int | None = None

    @property
    def name(self) -> str:
        return self.latency.name

    @property
    def provenance(self) -> str:
        return self.latency.provenance

    def to_json(self) -> dict[str, object]:
        latency = self.latency.to_json()
        return {
            "name": latency.pop("name"),
            "about": self.about,
            "provenance": latency.pop("provenance"),
            **({} if self.context is None else {"context_tokens": self.context}),
            "latency": latency,
            "memory": self.memory.to_json(),
            "link": self.link.to_json(),
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file that `load_hardware` reads; the folder must exist."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def hardware_from_json(data: object, where: str = "hardware") -> Hardware:
    """From {"name", "about", "provenance", "context_tokens", "latency", "memory", "link"}, or a bare latency model.

    A bare latency model, or a missing part, gets unlimited memory of unknown bytes per token and the default link.
    """
    fields = Fields(data, where)
    if "kind" in fields:
        return Hardware(latency_from_json(data, where), Memory(), Link())
    about, name, provenance = fields.text("about"), fields.text("name"), fields.text("provenance")
    context = fields.optional_integer("context_tokens")
    latency = fields.take("latency")
    if latency is None:
        raise ValueError(f'{where}: \'latency\' is missing; give it a model such as {{"kind": "linear", ...}}')
    model = latency_from_json(latency, f"{where}, latency")
    model.name = name or model.name
    model.provenance = provenance or model.provenance
    memory = read_memory(fields.part("memory"))
    link = read_link(fields.part("link"))
    fields.close()
    return Hardware(model, memory, link, about, context)


def _preset_texts() -> dict[str, str]:
    """Name -> JSON text of every preset file, by name; the catalogue of rooflines is no preset."""
    folder = files("fastserve.hardware").joinpath("presets")
    found = {
        entry.name.removesuffix(".json"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".json") and entry.name != catalogue.FILE
    }
    return dict(sorted(found.items()))


def presets() -> dict[str, str]:
    """The preset files, with one line on each; `rooflines()` has the other names that `load_hardware` knows."""
    return {name: str(json.loads(text)["about"]) for name, text in _preset_texts().items()}


def rooflines() -> dict[str, str]:
    """roofline:MODEL/DEVICE for every pair of the catalogue that fits, with one line on each."""
    found = catalogue.read_catalogue()
    return {
        f"{catalogue.PREFIX}{name}/{device}": roofline_about(name, model.shape, device, accelerator, 1)
        for name, model in found.models.items()
        for device, accelerator in found.accelerators.items()
        if accelerator.pool_tokens(model.shape)
    }


def roofline(model: str, device: str) -> Hardware:
    """Untuned estimate of a catalogued model on a catalogued device; ValueError lists the valid names.

    device: a name; several as one, 4xa100-80g; or a group that shares the model by tensors, h100*8. In any case.
    """
    model, device = model.lower(), device.lower()
    found = catalogue.read_catalogue()
    if model not in found.models:
        raise ValueError(f"no roofline for the model {model!r}; models: {', '.join(found.models)}")
    try:
        accelerator, devices = found.group(device)
    except KeyError:
        known = ", ".join(found.accelerators)
        raise ValueError(
            f"no roofline for the device {device!r}; devices: {known}, several of one as a group: h100*8, or several "
            "as one: 4xa100-80g"
        ) from None
    known_as = found.models[model]
    about = roofline_about(model, known_as.shape, device, accelerator, devices)
    name = f"{catalogue.PREFIX}{model}/{device}"
    sources = " ".join(text for text in (found.provenance, known_as.source, accelerator.source) if text)
    who = f"{model} does not fit {device}"
    return estimate(known_as.shape, accelerator, devices, name, about, sources, known_as.context, who)


def estimate(
    shape: ModelConfig,
    accelerator: catalogue.Accelerator,
    devices: int,
    name: str,
    about: str = "",
    provenance: str = "",
    context: int | None = None,
    unfit: str = "the model does not fit the device",
) -> Hardware:
    """The roofline of a model on so many devices of a kind, with the pools and the links of all of them.

    unfit: how the error begins where the weights leave no room for KV.
    """
    latency = RooflineLatency(shape, accelerator.device, name, provenance, devices, accelerator.interconnect)
    memory = accelerator.memory(shape, devices, unfit)
    return Hardware(latency, memory, accelerator.links(devices), about, context)


def roofline_about(
    model: str, shape: ModelConfig, device: str, accelerator: catalogue.Accelerator, devices: int
) -> str:
    """The one line on it."""
    if devices > 1:
        on = f"{device} ({accelerator.about}, tensor parallel)"
    else:
        on = f"{'' if ', as one' in accelerator.about else 'one '}{device.removesuffix('*1')} ({accelerator.about})"
    tokens = accelerator.pool_tokens(shape, devices)
    return f"{model} on {on}: untuned roofline, pool of {tokens:,} tokens"


def load_hardware(name_or_path: str | PathLike[str]) -> Hardware:
    """A preset by name, roofline:MODEL/DEVICE, or a JSON file by path (one named as a preset is: write ./name).

    docs/machines.md has the keys of such a file.

    FileNotFoundError lists the presets; ValueError tells what is wrong inside a file or a roofline's name.
    """
    name = str(name_or_path)
    if name.startswith(catalogue.PREFIX):
        model, _, device = name.removeprefix(catalogue.PREFIX).partition("/")
        if ".json" in name.lower():
            raise ValueError(
                f"{name}: a roofline's name takes a model of the catalogue; make a machine of a file first, python -m "
                f"sim.machines make mine.json --config config.json --device {device.rpartition('/')[2] or 'h100'}, and "
                "name mine.json"
            )
        return roofline(model, device)
    texts = _preset_texts()
    if name in texts:
        return hardware_from_json(json.loads(texts[name]), f"preset {name}")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no latency preset and no file is called {name!r}; presets: {', '.join(texts)}, or a roofline such as "
            f"{catalogue.PREFIX}llama-3-8b/a100-80g"
        )
    return hardware_from_json(read_json(path), name)
