"""What a server holds and has looked at before anything heavy (fastapi, torch, transformers) is imported.

So a port in use, a locked state folder or a path that is not there is refused in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastserve import backends
from fastserve.atomic_files import OutputError, check_writable
from fastserve.hardware import load_hardware
from fastserve.observers.named import chosen
from fastserve.sched.observer import Observer
from fastserve.server.config import files
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http.listener import StartError, bind
from fastserve.server.jobs.store import Store

log = logging.getLogger("fastserve.server")


class Prepared(NamedTuple):
    """listener: bound, not yet listening, so nobody is kept waiting by a server that loads."""

    config: FastServeConfig
    listener: socket.socket
    store: Store
    observers: list[Observer]


@contextlib.contextmanager
def prepared(config: FastServeConfig) -> Iterator[Prepared]:
    """Warns of what is odd; holds port and state folder while the block runs. Raises StartError."""
    for warning in config.strays():
        log.warning(warning)
    with bind(config.host, config.port) as listener:
        try:
            _look(config)
            if config.state_dir is None:
                config = config.model_copy(update={"state_dir": state_folder(listener.getsockname()[1])})
            store = Store(config.state_dir)
        except (OSError, ValueError, OutputError) as error:
            raise StartError(str(error)) from error
        try:
            try:
                observers = chosen(config.timeline, config.iterations, config.observer)
            except (OutputError, ValueError) as error:
                raise StartError(str(error)) from error
            yield Prepared(config, listener, store, observers)
        finally:
            store.close()


def _look(config: FastServeConfig) -> None:
    """Raises ValueError, OSError or OutputError for files of the settings that are not there or no use."""
    backends.look(config.backend, config.model, dummy=config.load_format == "dummy")
    if config.latency is not None:
        load_hardware(config.latency)
    if config.api_key_file is not None:
        for warning in files.wide(config.api_key_file):
            log.warning(warning)
        files.tokens(config.api_key_file)
    if config.chat_template is not None:
        files.template(config.chat_template)
    if config.content_filter is not None:
        from fastserve.server.api.content_filter import ContentFilter

        ContentFilter(config.content_filter)
    if config.flight_log is not None:
        check_writable(Path(config.flight_log))


def state_folder(port: int) -> Path:
    """The default state_dir: in the user's home, one for each port."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "fastserve" / f"port-{port}"
