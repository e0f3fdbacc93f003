"""How much of experiments.fidelity is run for another backend than torch, whose run is the large one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments.fidelity import SCALES, Scale

RESIDENCIES = ("proactive", "reactive", "recompute")


def scales(
    backend: str, options: tuple[tuple[str, str | int | float | bool], ...], *, swaps: bool = True,
    model: str = "embedded", servers: Mapping[str, str] | None = None,
) -> dict[str, Scale]:  # fmt: skip
    """By name. swaps: whether the backend keeps KV on the host; else who leaves computes again, under one residency.
    servers: scale -> what is started for backend upstream to stand in front of.
    """
    usual = RESIDENCIES[0] if swaps else RESIDENCIES[-1]
    ordered = [(policy, 0.9, usual) for policy in ("fcfs", "sj-mlfq", "srpt")]
    others = [("sj-mlfq", 0.9, residency) for residency in RESIDENCIES[1:] if swaps]
    cells = {
        "smoke": (("fcfs", 0.8, usual), ("sj-mlfq", 0.8, usual)),
        "small": (*ordered, *others),
        "paper": tuple((policy, load, residency) for policy, load, residency in SCALES["paper"].cells if swaps
                       or residency == usual),
    }  # fmt: skip
    found = {}
    for name, scale in SCALES.items():
        rig = replace(scale.rig, backend=backend, options=options, model=model, server=(servers or {}).get(name, ""))
        few = name == "small"
        found[name] = replace(
            scale, cells=cells[name], rig=rig, pairs=3 if few else scale.pairs, requests=120 if few else scale.requests
        )
    return found
