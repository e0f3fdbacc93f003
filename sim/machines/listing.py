"""python -m sim.machines list: the catalogue's models and devices, and the presets, each with what it comes from."""

from __future__ import annotations

from typing import Any

from fastserve.hardware import load_hardware, presets
from fastserve.hardware.catalogue import Accelerator, Model, read_catalogue
from sim.report.layout import aligned


def listed() -> dict[str, Any]:
    """models, devices and presets by name, as --json prints them."""
    found = read_catalogue()
    return {
        "models": {name: _model(model) for name, model in found.models.items()},
        "devices": {name: _device(device) for name, device in found.accelerators.items()},
        "presets": {
            name: {"about": about, "provenance": load_hardware(name).provenance} for name, about in presets().items()
        },
        "provenance": found.provenance,
    }


def listing(sources: bool = False) -> str:
    """For reading; with sources, where each number stands."""
    found = listed()
    models = [
        ("", "parameters", "of a token", "weights", "KV a token", "context"),
        ("model", "10^9", "10^9", "GB", "bytes", "tokens"),
        *[
            (
                name,
                f"{one['parameters'] / 1e9:.2f}",
                f"{one['active_parameters'] / 1e9:.2f}",
                f"{one['weight_bytes'] / 1e9:.1f}",
                f"{one['kv_bytes_per_token']:,}",
                f"{one['context_tokens']:,}",
            )
            for name, one in found["models"].items()
        ],
    ]
    devices = [
        ("", "16 bits", "8 bits", "memory", "memory", "host link", "to others", ""),
        ("device", "TFLOP/s", "TFLOP/s", "GB", "GB/s", "GB/s", "GB/s", "form"),
        *[
            (
                name,
                f"{one['flops_per_s'] / 1e12:.4g}",
                f"{one['fp8_flops_per_s'] / 1e12:.4g}" if one["fp8_flops_per_s"] else "-",
                f"{one['memory_bytes'] / 1e9:.0f}",
                f"{one['bytes_per_s'] / 1e9:,.0f}",
                f"{one['link_bytes_per_s'] / 1e9:.0f}",
                f"{one['interconnect_bytes_per_s'] / 1e9:.5g}" if one["interconnect_bytes_per_s"] else "-",
                one["about"],
            )
            for name, one in found["devices"].items()
        ],
    ]
    width = max(map(len, found["presets"]))
    lines = [
        "Models and devices: --latency roofline:MODEL/DEVICE, such as roofline:llama-3.1-8b/h100,",
        "or, of a group that shares the model by tensors, 'roofline:llama-3.3-70b/h100*8'.",
        "",
        *aligned(models),
        "",
        *aligned(devices),
        "",
        "Presets: --latency NAME; published or measured times.",
        "",
        *[f"{name:{width}}  {one['about']}" for name, one in found["presets"].items()],
        "",
    ]
    if sources:
        for part in ("models", "devices"):
            lines += [f"{name}: {one['source']}" for name, one in found[part].items()]
        lines += [f"{name}: {one['provenance']}" for name, one in found["presets"].items()]
        lines += ["", found["provenance"]]
    else:
        lines.append("What each comes from: list --sources. Times and pools of one: python -m sim.machines show NAME.")
    return "\n".join(lines) + "\n"


def _model(model: Model) -> dict[str, Any]:
    shape = model.shape
    return {
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters + shape.head_parameters,
        "weight_bytes": shape.weight_bytes,
        "kv_bytes_per_token": shape.kv_bytes_per_token,
        "context_tokens": model.context,
        "source": model.source,
    }


def _device(accelerator: Accelerator) -> dict[str, Any]:
    device, joined = accelerator.device, accelerator.interconnect
    return {
        "flops_per_s": device.flops_per_s,
        "fp8_flops_per_s": device.fp8_flops_per_s,
        "bytes_per_s": device.bytes_per_s,
        "memory_bytes": accelerator.memory_bytes,
        "link_bytes_per_s": accelerator.link.out_bytes_per_s,
        "interconnect_bytes_per_s": joined.bytes_per_s if joined else 0,
        "about": accelerator.about,
        "source": accelerator.source,
    }
