"""What a server holds and has looked at before anything heavy (fastapi, torch, transformers) is imported.

So a port in use, a locked state folder or a path that is not there is refused in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import errno
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
from fastserve.server.config import files, sources
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.jobs.store import Store

log = logging.getLogger("fastserve.server")


class StartError(RuntimeError):
    """The server could not start; the message is shown to the user."""


class Prepared(NamedTuple):
    """listener: bound, not yet listening, so nobody is kept waiting by a server that loads."""

    config: FastServeConfig
    listener: socket.socket
    store: Store
    observers: list[Observer]


@contextlib.contextmanager
def prepared(config: FastServeConfig) -> Iterator[Prepared]:
    """Warns of what is odd; holds port and state folder while the block runs. Raises StartError."""
    for warning in sources.strays(FastServeConfig.model_fields, config.config):
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


def bind(host: str, port: int) -> socket.socket:
    """Bound and not yet listening. Raises StartError."""
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that is none
        if found is not None:
            found.close()
        raise cannot_listen(host, port, error) from error
    return found


def cannot_listen(host: str, port: int, error: Exception) -> StartError:
    """Why this address cannot be had, and what to do."""
    reason = getattr(error, "strerror", None) or error
    other = "another --port, or 0 for a free one"
    if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        other = "another --host: 127.0.0.1 for programs of this machine, 0.0.0.0 for all of its addresses"
    return StartError(f"cannot listen at {host} port {port}: {reason}; {other}")
