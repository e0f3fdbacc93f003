"""python -m sim.machines make OUT: a machine's JSON file from a model and a device, or from measured points."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fastserve.hardware import Device, Hardware, Interconnect, Link, Memory, ModelConfig
from fastserve.hardware.catalogue import Accelerator, Catalogue, read_catalogue
from fastserve.hardware.hardware import estimate
from fastserve.hardware.json_fields import read_json
from fastserve.hardware.published_config import read_config

LEAST = {"flops": 1e9, "fp8_flops": 1e9, "bandwidth": 1e6, "device_memory": 1e6, "link": 1e6, "interconnect": 1e6}
"""Flag -> below which it is surely in other units."""

ASSUMED = ("compute_efficiency", "memory_efficiency", "overhead_ms", "layer_overhead_us")


def add_making(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="the file to write; --latency takes it")
    parser.add_argument("--name", help="of the machine (the file's)")
    model = parser.add_argument_group("the model: one of")
    one = model.add_mutually_exclusive_group()
    one.add_argument("--config", metavar="FILE", help="a model's config.json, as Hugging Face's models have it")
    one.add_argument("--model", metavar="NAME", help="a catalogued one: python -m sim.machines list")
    model.add_argument(
        "--weight-bits", type=_number, metavar="N", help="bits of a weight of the layers (as --config says)"
    )
    model.add_argument("--expert-bits", type=_number, metavar="N", help="of the experts alone (as --config says)")
    device = parser.add_argument_group("the device: a catalogued one, flags, or one changed by flags")
    device.add_argument("--device", metavar="NAME", help="a catalogued one: h100, 4xa100-80g, h100*8")
    device.add_argument("--tp", type=int, metavar="N", help="devices that share the model by tensors (1)")
    device.add_argument("--flops", type=_number, metavar="N", help="of 16-bit numbers a second: 989e12")
    device.add_argument("--fp8-flops", type=_number, metavar="N", help="of weights of 8 bits (0: as 16-bit ones)")
    device.add_argument("--bandwidth", type=_number, metavar="N", help="bytes of memory a second: 3.35e12")
    device.add_argument("--device-memory", type=_number, metavar="N", help="bytes: 80e9; 0.9 of it is used")
    device.add_argument("--link", type=_number, metavar="N", help="bytes a second to the host, each way")
    device.add_argument("--host-memory", type=_number, metavar="N", help="bytes for KV on the host, for each device")
    device.add_argument("--interconnect", type=_number, metavar="N", help="bytes a second to other devices, one way")
    device.add_argument(
        "--all-reduce-us", type=_number, metavar="N", help="one all-reduce of next to nothing takes so long"
    )
    told = parser.add_argument_group("what is reached")
    told.add_argument("--compute-efficiency", type=_number, metavar="N", help="share of the arithmetic (0.7)")
    told.add_argument("--memory-efficiency", type=_number, metavar="N", help="share of the bandwidth (0.7)")
    told.add_argument("--overhead-ms", type=_number, metavar="N", help="of each iteration (1)")
    told.add_argument("--layer-overhead-us", type=_number, metavar="N", help="of each layer in each iteration (0)")
    points = parser.add_argument_group("measured instead; pool and link are those of a model and a device, if given")
    points.add_argument("--points", metavar="FILE", help="CSV of phase,batch,tokens,ms: decode,16,512,23.5")
    points.add_argument(
        "--kv-tokens", type=int, metavar="N", help="of the pool (that of model and device, else no end)"
    )


class Made(NamedTuple):
    hardware: Hardware
    told: list[str]


def made(args: argparse.Namespace) -> Made:
    """ValueError says which flag is missing or wrong."""
    name = args.name or Path(args.out).stem
    catalogue = read_catalogue()
    told: list[str] = []
    if args.points:
        _check_measured(args)
    model = _model(args, catalogue, told)
    device = _device(args, catalogue)
    if args.points:
        return _measured(args, name, model, device)
    if model is None:
        raise ValueError("which model? give --config FILE, --model NAME or measured --points FILE")
    if device is None:
        raise ValueError("which device? give --device NAME, or --flops, --bandwidth and --device-memory")
    hardware = _roofline(args, name, model, device)
    return Made(hardware, told)


class _Model(NamedTuple):
    name: str
    shape: ModelConfig
    context: int | None
    source: str


class _Group(NamedTuple):
    name: str
    accelerator: Accelerator
    devices: int


def _roofline(args: argparse.Namespace, name: str, model: _Model, device: _Group) -> Hardware:
    source = f"Made by python -m sim.machines make. {model.source} {device.accelerator.source}".strip()
    about = f"{model.name} on {device.name}: roofline"
    unfit = f"{model.name} does not fit {device.name}"
    found = estimate(model.shape, device.accelerator, device.devices, name, about, source, model.context, unfit)
    return replace(found, memory=replace(found.memory, device_tokens=args.kv_tokens)) if args.kv_tokens else found


def _check_measured(args: argparse.Namespace) -> None:
    for flag in ("flops", "fp8_flops", "bandwidth", "interconnect", "all_reduce_us", *ASSUMED):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')} has no use beside --points: the times are measured")


def _measured(args: argparse.Namespace, name: str, model: _Model | None, device: _Group | None) -> Made:
    from fastserve.hardware.points import fit_points, read_points  # numpy, which list and show do without

    points = read_points(args.points)
    latency, misses = fit_points(points, name, f"Linear fit of {len(points)} points of {Path(args.points).name}.")
    told = [
        f"{phase}: {miss.points} points, missed by {miss.median:.1%} in the median, {miss.worst:.1%} at most"
        for phase, miss in misses.items()
    ]
    memory, link, context = Memory(device_tokens=args.kv_tokens), Link(), model.context if model else None
    if model and device:
        memory = device.accelerator.memory(model.shape, device.devices, f"{model.name} does not fit {device.name}")
        link = device.accelerator.links(device.devices)
        memory = replace(memory, device_tokens=args.kv_tokens or memory.device_tokens)
    elif model:
        memory = replace(memory, bytes_per_token=model.shape.kv_bytes_per_token)
    return Made(Hardware(latency, memory, link, f"{name}: fit of measured times", context), told)


def _model(args: argparse.Namespace, catalogue: Catalogue, told: list[str]) -> _Model | None:
    if args.config is None:
        for flag in ("weight_bits", "expert_bits"):
            if getattr(args, flag) is not None and args.model is None:
                raise ValueError(f"--{flag.replace('_', '-')} says what --config or --model takes; give one")
    if args.model is not None:
        named = args.model.lower()
        if named not in catalogue.models:
            raise ValueError(f"--model {args.model}: not in the catalogue; models: {', '.join(catalogue.models)}")
        found = catalogue.models[named]
        return _Model(named, _with_bits(found.shape, args), found.context, found.source)
    if args.config is None:
        return None
    path = Path(args.config)
    if path.is_dir():
        path = path / "config.json"
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise ValueError(f"--config {args.config}: there is no file {path}") from None
    read = read_config(data, str(path), args.weight_bits, args.expert_bits)
    told += read.told
    name = str(data.get("_name_or_path") or data.get("model_type") or path.parent.name or "model")
    return _Model(name, read.shape, read.context, f"Sizes: {path.name} of {name}.")


def _with_bits(shape: ModelConfig, args: argparse.Namespace) -> ModelConfig:
    if args.weight_bits is not None:
        shape = replace(shape, weight_bits=args.weight_bits)
    if args.expert_bits is not None:
        if shape.experts is None:
            raise ValueError(f"--expert-bits: {args.model} has no experts; give --weight-bits")
        shape = replace(shape, experts=replace(shape.experts, bits=args.expert_bits))
    return shape


def _device(args: argparse.Namespace, catalogue: Catalogue) -> _Group | None:
    given = {flag: getattr(args, flag) for flag in ("flops", "bandwidth", "device_memory")}
    if args.device is None:
        missing = [f"--{flag.replace('_', '-')}" for flag, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        if missing:
            raise ValueError(f"a device of one's own wants {', '.join(missing)} too")
        name, count = "a device of one's own", 1
        any_device = next(iter(catalogue.accelerators.values()))
        reached = {key: getattr(any_device.device, key) for key in ASSUMED}
        own = Device(args.flops, args.bandwidth, **reached)
        accelerator = Accelerator(own, int(args.device_memory), any_device.host_bytes, Link(), source="Device: flags.")
    else:
        name = args.device.lower()
        try:
            accelerator, count = catalogue.group(name)
        except KeyError:
            raise ValueError(
                f"--device {args.device}: not in the catalogue; devices: {', '.join(catalogue.accelerators)}"
            ) from None
    if args.tp is not None:
        if args.tp < 1:
            raise ValueError(f"--tp {args.tp}: give at least 1")
        if count > 1 and args.tp != count:
            raise ValueError(f"--tp {args.tp} and --device {name} say two things; give one of them")
        if count == 1 and args.tp > 1:
            name, count = f"{name}*{args.tp}", args.tp
    return _Group(name, _changed(args, accelerator), count)


def _changed(args: argparse.Namespace, accelerator: Accelerator) -> Accelerator:
    """With what the flags say otherwise."""
    flags = {
        "flops_per_s": args.flops,
        "bytes_per_s": args.bandwidth,
        "fp8_flops_per_s": args.fp8_flops,
        **{key: getattr(args, key) for key in ASSUMED},
    }
    for key in ("compute_efficiency", "memory_efficiency"):
        if flags[key] is not None and not 0 < flags[key] <= 1:
            raise ValueError(
                f"--{key.replace('_', '-')} is a share of the peak, above 0 and at most 1, got {flags[key]:g}"
            )
    for flag, least in LEAST.items():
        value = getattr(args, flag)
        if value == 0 and flag != "fp8_flops":
            raise ValueError(f"--{flag.replace('_', '-')} must be above 0")
        if value and value < least:
            unit = "bytes" if flag == "device_memory" else "a second" if "flops" in flag else "bytes a second"
            raise ValueError(
                f"--{flag.replace('_', '-')} {value:g}: that is {value:g} {unit}, less than any device; write the "
                f"whole number, such as {'989e12' if 'flops' in flag else '80e9'}"
            )
    device = replace(accelerator.device, **{key: value for key, value in flags.items() if value is not None})
    changes: dict[str, Any] = {"device": device}
    if args.device_memory is not None:
        changes["memory_bytes"] = int(args.device_memory)
    if args.host_memory is not None:
        changes["host_bytes"] = int(args.host_memory)
    if args.link is not None:
        changes["link"] = replace(accelerator.link, out_bytes_per_s=int(args.link), in_bytes_per_s=int(args.link))
    joined = accelerator.interconnect
    if args.interconnect is not None:
        joined = (
            replace(joined, bytes_per_s=args.interconnect) if joined else Interconnect(args.interconnect, 10.0, 0.7)
        )
    if args.all_reduce_us is not None:
        if joined is None:
            raise ValueError("--all-reduce-us: nothing joins this device to others; give --interconnect too")
        joined = replace(joined, latency_us=args.all_reduce_us)
    return replace(accelerator, interconnect=joined, **changes)


def _number(text: str) -> float:
    """A number that is not negative, such as 989e12."""
    value = float(text)
    if not 0 <= value <= 1e30 or math.isnan(value):
        raise argparse.ArgumentTypeError(f"give a number from 0 to 1e30, got {text}")
    return value
