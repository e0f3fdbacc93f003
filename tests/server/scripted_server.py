"""A real server process on a scripted engine: `python scripted_server.py SPEED FLAGS...` is `fastserve serve FLAGS`."""

from __future__ import annotations

import sys

from fastserve.__main__ import main
from fastserve.engine import Engine
from fastserve.server import run
from fastserve.server.config.settings import FastServeConfig


def make_engine(config: FastServeConfig) -> Engine:
    return Engine.scripted(
        policy=config.policy, max_batch=config.max_batch, queue_capacity=config.queue_capacity, realtime=speed
    )


speed = float(sys.argv[1])
run.make_engine = make_engine
sys.exit(main(["serve", "--model", "embedded", *sys.argv[2:]]))  # whatever is installed
