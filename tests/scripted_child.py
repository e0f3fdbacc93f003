"""`python scripted_child.py FLAGS` is `python -m fastserve.child FLAGS` without torch, on a scripted engine."""

from __future__ import annotations

import sys

from fastserve import child
from fastserve.config import FastServeConfig
from fastserve.engine import Engine
from fastserve.server import run


def make_engine(config: FastServeConfig) -> Engine:
    return Engine.scripted(
        policy=config.policy, knobs=config.knobs, predictor=config.predictor, max_batch=config.max_batch,
        queue_capacity=config.queue_capacity, realtime=5.0,
    )  # fmt: skip


run.make_engine = make_engine
sys.exit(child.main())
