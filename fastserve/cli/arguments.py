"""Flags that several commands share: which model runs where, and how its engine batches."""

from __future__ import annotations

import argparse

MODEL_FLAGS = ("device", "dtype", "threads", "load_format", "max_model_len", "trust_remote_code", "native")
BATCH_FLAGS = ("max_batch", "batching", "token_budget", "residency", "visit", "kv_tokens", "host_tokens")


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Which model runs where; the names in MODEL_FLAGS, and --model."""
    add = parser.add_argument
    add("--model", default="embedded", help="embedded, a folder, or an id of the Hugging Face hub (default: embedded)")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add("--threads", type=int, help="of PyTorch")
    add("--load-format", default="auto", choices=("auto", "dummy"), help="dummy: random weights")
    add("--max-model-len", type=int, help="longest context")
    add("--trust-remote-code", action="store_true")
    add("--native", default="auto", choices=("auto", "off"), help="off: PyTorch alone")


def add_batch_arguments(parser: argparse._ActionsContainer) -> None:
    """The names in BATCH_FLAGS: fields of EngineConfig."""
    add = parser.add_argument
    add("--max-batch", type=int, default=16, help="batch cap (default: %(default)s)")
    add("--batching", default="chunked", choices=("mixed", "prefill-first", "chunked", "static"))
    add("--token-budget", type=int, help="tokens an iteration")
    add("--residency", default="proactive", choices=("recompute", "reactive", "proactive", "defer"))
    add("--visit", type=int, default=64, help="visit guard; 0 is off (default: %(default)s)")
    add("--kv-tokens", type=int, help="device KV pool (default: what the memory allows)")
    add("--host-tokens", type=int, help="host KV pool (default: what the memory allows)")


def add_observer_arguments(parser: argparse._ActionsContainer) -> None:
    """timeline, iterations and observer, as fastserve.observers.named.chosen() takes them."""
    add = parser.add_argument
    add("--timeline", metavar="FILE", help="a Chrome trace of the run, for ui.perfetto.dev, written as it goes on")
    add("--iterations", metavar="FILE", help="a row per iteration (CSV), written as the run goes on")
    add("--observer", action="append", default=[], metavar="MODULE:CLASS", help="your own; may be repeated")
