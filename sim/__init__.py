"""Simulator: arrivals, gpu and link as SimPy processes around a Scheduler. `python -m sim`, or sim.replay(),
sim.sweep() and sim.capacity().

Read: world, machine, inbox, session_inbox, link (one run); run, prepared, replay (policies, seeds, processes);
settings, sustained; cluster/ (several replicas behind a router); sweep/ (a grid of runs); capacity/ (the largest load
that meets an SLO); report/.
"""

from sim import compiled

compiled.use()  # before the first import of fastserve

from fastserve.policies.spec import PolicySpec  # noqa: E402
from sim.capacity import Capacity, capacity  # noqa: E402
from sim.replay import Result, replay  # noqa: E402
from sim.run import Contender  # noqa: E402
from sim.settings import Settings  # noqa: E402
from sim.sweep import Sweep, sweep  # noqa: E402

__all__ = ["Capacity", "Contender", "PolicySpec", "Result", "Settings", "Sweep", "capacity", "replay", "sweep"]
