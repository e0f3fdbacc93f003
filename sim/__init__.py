"""The simulator: arrivals, gpu and link as SimPy processes around the brain. `python -m sim`, or sim.replay()."""

from sim.one import Contender
from sim.replay import Result, replay
from sim.settings import Settings

__all__ = ["Contender", "Result", "Settings", "replay"]
