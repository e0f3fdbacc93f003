"""Iteration-time models with the memory and the link of the machine; JSON in and out, each with its provenance."""

from fastserve.sched.latency.base import LatencyModel
from fastserve.sched.latency.hardware import Hardware, hardware_from_json, load_hardware, presets
from fastserve.sched.latency.linear import DecodePiece, LinearLatency, PrefillFit
from fastserve.sched.latency.memory import Link, Memory

__all__ = [
    "DecodePiece",
    "Hardware",
    "LatencyModel",
    "LinearLatency",
    "Link",
    "Memory",
    "PrefillFit",
    "hardware_from_json",
    "load_hardware",
    "presets",
]
