"""The simulator: arrivals, gpu and link as SimPy processes around the brain. `python -m sim`, or sim.replay()."""

from sim import compiled

compiled.use()  # before the first import of fastserve

from sim.replay import Result, replay  # noqa: E402
from sim.run import Contender  # noqa: E402
from sim.settings import Settings  # noqa: E402

__all__ = ["Contender", "Result", "Settings", "replay"]
