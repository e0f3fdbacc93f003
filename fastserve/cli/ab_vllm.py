"""`fastserve ab --backend vllm`: its arguments, and the body that they make."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from fastserve.backends.options import DEFAULTS
from fastserve.backends.torch.source import folder_for_others
from fastserve.cli.arguments import ENGINE_FLAGS, MODEL_FLAGS, flags
from fastserve.cli.session_arguments import sessions_of
from fastserve.cli.vllm import ROWS, SLOTS
from fastserve.compare.contender import Contender, Server, VllmItself
from fastserve.policies.spec import PolicySpec
from fastserve.vllm.settings import interpreter

if TYPE_CHECKING:
    from fastserve.compare.compare import Body

VLLM = "vllm"
ITS_OWN = ("dtype", "load_format", "max_model_len", "trust_remote_code")
"""Flags of a model that vLLM has under the same names."""
TAKEN = ("visit", "prefix_cache", *ITS_OWN)
"""Flags of our engine and its model that say something of vLLM too."""


def add_vllm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "vLLM, with --backend vllm",
        "Each run has a `fastserve vllm` of its own; --policy vllm is vLLM as it is, under its own fcfs. What stands "
        "after -- are vLLM's own flags, for all rows.",
    )
    add = group.add_argument
    add(
        "--slots",
        type=int,
        default=None,
        metavar="N",
        help=f"requests that decode or prefill at once (default: {SLOTS})",
    )
    add(
        "--rows",
        type=int,
        metavar="N",
        help=f"requests whose KV may be there, parked ones too (default: {ROWS})",
    )
    add("--leave", choices=("park", "recompute"), help="what becomes of a preempted request's KV (default: park)")


def check_vllm(args: argparse.Namespace, contenders: Sequence[Contender]) -> None:
    """Raises ValueError for arguments that do not go together."""
    if args.backend != VLLM:
        given = [f"--{name}" for name in ("slots", "rows", "leave") if getattr(args, name) is not None]
        if any(isinstance(one, PolicySpec) and one.policy == VllmItself.name for one in contenders):
            raise ValueError("--policy vllm is vLLM's own scheduler: give --backend vllm")
        if given:
            raise ValueError(f"{given[0]} is of vLLM: give --backend vllm, or our engine's flags, such as --max-batch")
        if args.rest:
            raise ValueError(f"behind -- stands {' '.join(args.rest)}, which is for vLLM: give --backend vllm")
        return
    if args.offline or any(isinstance(one, Server) for one in contenders):
        raise ValueError("--backend vllm starts servers of its own: leave --offline and --url out")
    interpreter()  # before anything is read
    usual = _defaults()
    for name in (*ENGINE_FLAGS, *MODEL_FLAGS):
        if name not in TAKEN and getattr(args, name) != usual[name]:
            raise ValueError(
                f"{flags(name)[0]} is of our own engine: with --backend vllm give --slots, --rows, --leave, and vLLM's "
                "own flags after --"
            )


def vllm_body(args: argparse.Namespace) -> Body:
    """Raises ValueError where there is no vLLM."""
    from fastserve.compare.vllm import VllmBody, VllmSetup

    usual = _defaults()
    own: list[str] = []
    for name in ITS_OWN:
        value = getattr(args, name)
        if value != usual[name]:
            own += [flags(name)[0]] if value is True else [flags(name)[0], str(value)]
    if args.prefix_cache == "off":
        own.append("--no-enable-prefix-caching")
    setup = VllmSetup(
        python=interpreter(), model=folder_for_others(args.model), slots=SLOTS if args.slots is None else args.slots,
        rows=args.rows, leave=args.leave, visit=None if args.visit == usual["visit"] else args.visit,
        profile=args.latency, flags=(*own, *args.rest),
    )  # fmt: skip
    return VllmBody(
        setup, start_s=args.start_timeout, predictor=args.predictor, coming=sessions_of(args),
        own_answers=args.own_answers,
    )  # fmt: skip


def _defaults() -> dict[str, object]:
    from fastserve.engine.config import EngineConfig

    return {**{each.name: each.default for each in fields(EngineConfig)}, **DEFAULTS}
