"""python -m experiments.fidelity --backend llamacpp --scale small [--json]

Claim: the simulator tells what the live engine does on llama.cpp too: from a profile of this backend that
is made just before each live run. What is compared, and how, is told in experiments/fidelity.py and docs/fidelity.md.
"""

from __future__ import annotations

import sys

from experiments._lib.fidelity_scales import scales
from experiments._lib.sweep import main
from experiments.fidelity import cases, claims, joined, plan, plot, run

__all__ = ["SCALES", "cases", "claims", "joined", "plan", "plot", "run"]

SCALES = scales("llamacpp", (("threads", 1),))

if __name__ == "__main__":
    sys.exit(main("fidelity_llamacpp"))
