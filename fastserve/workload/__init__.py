"""Workloads: read, write, describe and synthesise request traces, and make requests of them.

Read: trace, reader/ (one format a file) and reading (what was taken for what), synthesis with arrivals and lengths,
seeds (which requests a seed has), requests, statistics, write.
"""

from fastserve.workload.errors import TraceError
from fastserve.workload.profile import Profile, load_profile, profile_names
from fastserve.workload.reader.read import read_trace
from fastserve.workload.requests import TraceRequest, requests_of
from fastserve.workload.statistics import Description, describe
from fastserve.workload.synthesis import Synthesis, synthesise
from fastserve.workload.trace import Trace
from fastserve.workload.write import write_trace

__all__ = [
    "Description",
    "Profile",
    "Synthesis",
    "Trace",
    "TraceError",
    "TraceRequest",
    "describe",
    "load_profile",
    "profile_names",
    "read_trace",
    "requests_of",
    "synthesise",
    "write_trace",
]
