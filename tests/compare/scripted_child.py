"""`python scripted_child.py FLAGS`: fastserve.compare.subprocess_server without torch, on a scripted engine."""

from __future__ import annotations

import sys

from fastserve.compare import subprocess_server
from fastserve.engine import Engine
from fastserve.server import run
from fastserve.server.config.settings import FastServeConfig


def make_engine(config: FastServeConfig) -> Engine:
    return Engine.scripted(
        policy=config.policy, knobs=config.knobs, predictor=config.predictor, max_batch=config.max_batch,
        queue_capacity=config.queue_capacity, realtime=5.0,
    )  # fmt: skip


run.make_engine = make_engine
sys.exit(subprocess_server.main())
