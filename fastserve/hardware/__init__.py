"""Latency models with the memory and the link of a machine, loaded from and saved to JSON with their provenance.

Read: base, linear, table, roofline (latency models), memory, hardware, catalogue.
"""

from fastserve.hardware.base import LatencyModel
from fastserve.hardware.hardware import (
    DEFAULT,
    Hardware,
    hardware_from_json,
    load_hardware,
    presets,
    roofline,
    rooflines,
)
from fastserve.hardware.linear import DecodePiece, LinearLatency, PrefillFit
from fastserve.hardware.memory import Link, Memory
from fastserve.hardware.roofline import Device, ModelConfig, RooflineLatency
from fastserve.hardware.table import DecodePoint, PrefillPoint, TableLatency

__all__ = [
    "DEFAULT",
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
