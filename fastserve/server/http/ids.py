"""Ids of requests and jobs."""

from __future__ import annotations

import re
import secrets

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
"""A valid X-Request-Id; any other is replaced by a new one."""


def new_id() -> str:
    """A unique id, across processes."""
    return secrets.token_hex(12)
