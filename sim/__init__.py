"""Simulator: arrivals, gpu and link as SimPy processes around a Scheduler. `python -m sim`, or sim.replay().

Read: world, machine, inbox, link (one run); run, replay (policies, seeds, processes); settings, capacity; report/.
"""

from fastserve.policies.spec import PolicySpec
from sim.replay import Result, replay
from sim.run import Contender
from sim.settings import Settings

__all__ = ["Contender", "PolicySpec", "Result", "Settings", "replay"]
