"""python -m experiments.fidelity --backend upstream --scale small [--json]

Claim: the simulator tells what happens in front of another server, too: from a profile that is measured from outside
just before each live run, on llama.cpp's server (package xllamacpp) with SmolLM2; at smoke scale on our own with
modelled times. What is compared, and how, is told in experiments/fidelity.py and docs/fidelity.md. Whoever returns
computes again there, as far as the server's own cache has forgotten; the simulation charges all of it.
"""

from __future__ import annotations

import sys

from experiments._lib.fidelity_scales import scales
from experiments._lib.sweep import main
from experiments.fidelity import cases, claims, joined, plan, plot, run

__all__ = ["SCALES", "cases", "claims", "joined", "plan", "plot", "run"]

USES = ("upstream_server.py",)
SERVERS = {"smoke": "scripted", "small": "llama.cpp", "paper": "llama.cpp"}
SCALES = scales("upstream", (), swaps=False, servers=SERVERS)

if __name__ == "__main__":
    sys.exit(main("fidelity_upstream"))
