"""The port that a server listens at, held before anything heavy is imported, and what to do when it cannot be had."""

from __future__ import annotations

import errno
import socket


class StartError(RuntimeError):
    """The server could not start; the message is shown to the user."""


def bind(host: str, port: int, flag: str = "--port") -> socket.socket:
    """Bound and not yet listening. flag: what says the port. Raises StartError."""
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that is none
        if found is not None:
            found.close()
        raise cannot_listen(host, port, error, flag) from error
    return found


def cannot_listen(host: str, port: int, error: Exception, flag: str = "--port") -> StartError:
    """Why this address cannot be had, and what to do."""
    reason = getattr(error, "strerror", None) or error
    other = f"another {flag}, or 0 for a free one"
    if isinstance(error, socket.gaierror | UnicodeError) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        other = "another --host: 127.0.0.1 for programs of this machine, 0.0.0.0 for all of its addresses"
    return StartError(f"cannot listen at {host} port {port}: {reason}; {other}")
