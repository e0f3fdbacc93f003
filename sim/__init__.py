"""The simulator: arrivals, gpu and link as SimPy processes around the brain. `python -m sim`, or sim.replay()."""

from sim.replay import Result, replay
from sim.run import Contender
from sim.settings import Settings

__all__ = ["Contender", "Result", "Settings", "replay"]
