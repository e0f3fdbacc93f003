"""Capacity: the largest load, and rate, at which a policy meets its service-level objectives."""

from sim.capacity.search import Aim, Observe, Search
from sim.capacity.stop import Attainment, EarlyStop, Normalised

__all__ = ["Aim", "Attainment", "EarlyStop", "Normalised", "Observe", "Search"]
