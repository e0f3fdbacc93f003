"""The simulator: arrivals, gpu and link as SimPy processes around the brain. `python -m sim`, or sim.replay()."""

from fastserve.policies.spec import PolicySpec
from sim.replay import Result, replay
from sim.run import Contender
from sim.settings import Settings

__all__ = ["Contender", "PolicySpec", "Result", "Settings", "replay"]
