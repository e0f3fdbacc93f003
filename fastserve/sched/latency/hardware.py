"""Hardware: a latency model with its memory and link; loaded from a preset, a JSON file or a roofline's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path

from fastserve.sched.latency.base import LatencyModel
from fastserve.sched.latency.kinds import latency_from_json
from fastserve.sched.latency.memory import Link, Memory, read_link, read_memory
from fastserve.sched.latency.strict import Fields


@dataclass(frozen=True, slots=True)
class Hardware:
    """Everything that the modelled machine is made of."""

    latency: LatencyModel
    memory: Memory
    link: Link
    about: str = ""  # one line for listings

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
            "latency": latency,
            "memory": self.memory.to_json(),
            "link": self.link.to_json(),
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file that `load_hardware` reads; the folder must exist."""
        Path(path).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def hardware_from_json(data: object, where: str = "hardware") -> Hardware:
    """From {"name", "about", "provenance", "latency", "memory", "link"}, or from a bare latency model.

    A bare latency model, or a missing part, gets unlimited memory of unknown bytes per token and the default link.
    """
    fields = Fields(data, where)
    if "kind" in fields:
        return Hardware(latency_from_json(data, where), Memory(), Link())
    about, name, provenance = fields.text("about"), fields.text("name"), fields.text("provenance")
    latency = fields.take("latency")
    if latency is None:
        raise ValueError(f'{where}: \'latency\' is missing; give it a model such as {{"kind": "linear", ...}}')
    model = latency_from_json(latency, f"{where}, latency")
    model.name = name or model.name
    model.provenance = provenance or model.provenance
    memory = read_memory(fields.part("memory"))
    link = read_link(fields.part("link"))
    fields.close()
    return Hardware(model, memory, link, about)


def _preset_texts() -> dict[str, str]:
    """Name -> JSON text of every preset file, by name."""
    folder = files("fastserve.sched").joinpath("presets")
    found = {
        entry.name.removesuffix(".json"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    }
    return dict(sorted(found.items()))


def presets() -> dict[str, str]:
    """Every name that `load_hardware` knows, with one line on each."""
    return {name: str(json.loads(text)["about"]) for name, text in _preset_texts().items()}


def load_hardware(name_or_path: str | PathLike[str]) -> Hardware:
    """A preset by name, or a JSON file by path (a file named as a preset is: write ./name).

    FileNotFoundError lists the presets; ValueError tells what is wrong inside a file.
    """
    name = str(name_or_path)
    texts = _preset_texts()
    if name in texts:
        return hardware_from_json(json.loads(texts[name]), f"preset {name}")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no latency preset and no file is called {name!r}; presets: {', '.join(texts)}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} is not a JSON file: {error}") from None
    return hardware_from_json(data, name)
