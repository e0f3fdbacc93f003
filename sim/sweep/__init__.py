"""Policies over a grid of settings: sim.sweep() and `python -m sim sweep`. docs/sweep.md.

Read: values, grid (what is asked); work, pool, names, store, folder, run (how it is done); result, points, crossings,
table, curves (what comes out); command.
"""

from sim.sweep.result import Sweep
from sim.sweep.run import sweep

__all__ = ["Sweep", "sweep"]
