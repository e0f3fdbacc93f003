"""Latency models with the memory and the link of a machine, loaded from and saved to JSON with their provenance.

Read: base, linear, table (latency models), shape, interconnect, roofline (another, from sizes), memory, hardware,
catalogue (of models and devices), published_config, points (what else a machine is made of).
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
from fastserve.hardware.interconnect import Interconnect
from fastserve.hardware.linear import DecodePiece, LinearLatency, PrefillFit
from fastserve.hardware.memory import Link, Memory
from fastserve.hardware.roofline import Device, RooflineLatency
from fastserve.hardware.shape import Experts, Latents, ModelConfig
from fastserve.hardware.table import DecodePoint, PrefillPoint, TableLatency

__all__ = [
    "DEFAULT",
    "DecodePiece",
    "DecodePoint",
    "Device",
    "Experts",
    "Hardware",
    "Interconnect",
    "LatencyModel",
    "Latents",
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
