"""python -m sim.machines show NAME: sizes, pools, link and times of any machine that --latency takes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fastserve.hardware import Hardware, RooflineLatency
from sim.report.layout import WIDTH, aligned, number

BATCHES = (1, 8, 32, 128, 512)
PROMPTS = (128, 512, 2048, 8192)
CONTEXT = 1024
ENDLESS = 256
"""Jobs that stand for a full batch where the pool has no end."""


def shown(hardware: Hardware, context: int = CONTEXT, batches: Sequence[int] = BATCHES) -> dict[str, Any]:
    """As --json prints it. context: tokens that each decoding job attends to.

    saturated: the batch that fills the pool with such jobs, and its tokens a second: no policy decodes faster.
    """
    latency, memory, link = hardware.latency, hardware.memory, hardware.link
    fits = None if memory.device_tokens is None else memory.device_tokens // context
    full = ENDLESS if fits is None else max(1, fits)
    prompts = [tokens for tokens in PROMPTS if hardware.context is None or tokens <= hardware.context]
    return {
        "name": hardware.name,
        "about": hardware.about,
        **({"sizes": _sizes(latency)} if isinstance(latency, RooflineLatency) else {}),
        "context_tokens": hardware.context,
        "memory": {**memory.to_json(), "device_bytes": (memory.device_tokens or 0) * memory.bytes_per_token or None},
        "link": link.to_json(),
        "decode": [_decode(hardware, batch, context, fits) for batch in batches],
        "prefill": [{"tokens": tokens, "ms": latency.iteration_ps(0, 0, ((0, tokens),)) / 1e9} for tokens in prompts],
        "saturated": {"unlimited": fits is None, **_decode(hardware, full, context, fits)},
        "provenance": hardware.provenance,
    }


def _decode(hardware: Hardware, batch: int, context: int, fits: int | None) -> dict[str, Any]:
    ps = hardware.latency.iteration_ps(batch, batch * context, ())
    return {
        "batch": batch,
        "context": context,
        "ms": ps / 1e9,
        "tokens_per_s": batch * 1e12 / ps,
        "fits": fits is None or batch <= fits,
    }


def _sizes(latency: RooflineLatency) -> dict[str, Any]:
    shape, device, joined = latency.model, latency.device, latency.interconnect
    return {
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters + shape.head_parameters,
        "weight_bytes": shape.weight_bytes,
        "devices": latency.devices,
        "compute_efficiency": device.compute_efficiency,
        "memory_efficiency": device.memory_efficiency,
        "overhead_ms": device.overhead_ms + shape.layers * device.layer_overhead_us / 1e3,
        **({"interconnect_efficiency": joined.efficiency} if joined and latency.devices > 1 else {}),
        **({"all_reduces_ms": latency.reduces_ms(1)} if latency.devices > 1 else {}),
    }


def showing(found: dict[str, Any]) -> str:
    """What `shown` gave, for reading."""
    memory, link = found["memory"], found["link"]
    lines = [f"{found['name']}: {found['about']}" if found["about"] else found["name"], ""]
    if sizes := found.get("sizes"):
        lines.append(
            f"model   {sizes['parameters'] / 1e9:.2f} billion parameters, {sizes['active_parameters'] / 1e9:.2f} of a "
            f"token, {sizes['weight_bytes'] / 1e9:.1f} GB"
        )
        group = f"tensor parallel on {sizes['devices']}, " if sizes["devices"] > 1 else ""
        told = f"times   roofline: {group}{sizes['compute_efficiency']:g} of the arithmetic and "
        told += f"{sizes['memory_efficiency']:g} of the bandwidth reached, {sizes['overhead_ms']:g} ms each iteration"
        if "all_reduces_ms" in sizes:
            told += f", all-reduces {sizes['all_reduces_ms']:.2f} ms at batch 1"
        lines += textwrap.wrap(f"{told}; docs/machines.md says how far that is off", WIDTH, subsequent_indent=" " * 8)
    lines.append(f"context {_tokens(found['context_tokens'], 'not known')}")
    pool = f"pool    {_tokens(memory['device_tokens'], 'unlimited')}"
    if memory["bytes_per_token"]:
        pool += f", {memory['bytes_per_token']:,} bytes a token"
        pool += f", {memory['device_bytes'] / 1e9:.1f} GB" if memory["device_bytes"] else ""
    host = "unlimited" if memory["host_bytes"] is None else f"{memory['host_bytes'] / 1e9:.1f} GB"
    lines.append(f"{pool}; host {host}")
    ways = "both ways at once" if link["duplex"] else "one way at a time"
    out, into = link["out_bytes_per_s"] / 1e9, link["in_bytes_per_s"] / 1e9
    lines.append(f"link    {out:g} GB/s out, {into:g} in, {ways}, {link['latency_ns'] / 1e3:g} us a copy")
    decode = found["decode"]
    rows = [("", "decode", "decode"), ("batch", "ms", "tokens/s")]
    rows += [
        (f"{one['batch']}{'' if one['fits'] else ' *'}", number(one["ms"]), f"{one['tokens_per_s']:,.0f}")
        for one in decode
    ]
    lines += ["", f"Decoding, {decode[0]['context']:,} tokens of context each", "", *aligned(rows)]
    if not all(one["fits"] for one in decode):
        lines.append("* more than the pool holds")
    full = found["saturated"]
    bound = "with a pool without end" if full["unlimited"] else "a full pool"
    lines += [
        "",
        f"Saturated decode: {full['tokens_per_s']:,.0f} tokens/s ({bound}: {full['batch']:,} jobs, "
        f"{number(full['ms'])} ms)",
        "",
        "Prefill of a whole prompt, alone",
        "",
        *aligned([("", "prefill", "prefill"), ("tokens", "ms", "tokens/s"), *map(_prefill, found["prefill"])]),
    ]
    if found["provenance"]:
        lines += ["", *textwrap.wrap(found["provenance"], WIDTH)]
    return "\n".join(lines) + "\n"


def _prefill(one: dict[str, Any]) -> tuple[str, str, str]:
    return f"{one['tokens']:,}", number(one["ms"]), f"{one['tokens'] * 1e3 / one['ms']:,.0f}"


def _tokens(tokens: int | None, absent: str) -> str:
    return absent if tokens is None else f"{tokens:,} tokens"
