"""Iteration-time models with the memory and the link of the machine; JSON in and out, each with its provenance."""

from fastserve.sched.latency.base import LatencyModel
from fastserve.sched.latency.hardware import (
    Hardware,
    hardware_from_json,
    load_hardware,
    presets,
    roofline,
    rooflines,
)
from fastserve.sched.latency.linear import DecodePiece, LinearLatency, PrefillFit
from fastserve.sched.latency.memory import Link, Memory
from fastserve.sched.latency.roofline import Device, ModelConfig, RooflineLatency
from fastserve.sched.latency.table import DecodePoint, PrefillPoint, TableLatency

__all__ = [
    "DecodePiece",
    "DecodePoint",
    "Device",
    "Hardware",
    "LatencyModel",
    "LinearLatency",
    "Link",
    "Memory",
    "ModelConfig",
    "PrefillFit",
    "PrefillPoint",
    "RooflineLatency",
    "TableLatency",
    "hardware_from_json",
    "load_hardware",
    "presets",
    "roofline",
    "rooflines",
]
