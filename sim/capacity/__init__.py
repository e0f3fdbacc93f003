"""Capacity: the largest load, and rate, at which a policy meets its service-level objectives.

Read: stop (runs that can no longer meet it), search (one search), task, find (all of them), result.
"""

from sim.capacity.find import capacity
from sim.capacity.result import Capacity
from sim.capacity.search import Aim, Observe, Search
from sim.capacity.stop import Attainment, EarlyStop, Normalised

__all__ = ["Aim", "Attainment", "Capacity", "EarlyStop", "Normalised", "Observe", "Search", "capacity"]
