"""Amounts as people write them: 16GB, 24Gi, half a core; and as Docker and Kubernetes take them."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

UNITS = {
    "b": 1,
    **{f"{letter}{end}": 1000**power for power, letter in enumerate("kmgt", 1) for end in ("", "b")},
    **{f"{letter}i{end}": 1024**power for power, letter in enumerate("kmgt", 1) for end in ("", "b")},
}
"""As Kubernetes and disk makers count: 1 GB is 10^9 bytes, 1 GiB is 2^30."""

MIB = 1 << 20
MOST = 1 << 60


def size(value: object) -> int:
    """Bytes. Raises ValueError for a number without a unit, what is no size, and less than 1 MB."""
    text = str(value).strip()
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-zA-Z]*)", text)
    if isinstance(value, bool) or match is None or match[2].lower() not in (*UNITS, ""):
        raise ValueError(f"{text[:40]!r} is no size: give a number and a unit, such as 16GB or 24GiB")
    if not match[2]:
        raise ValueError(f"{text} has no unit: give {text}GB, say")
    found = int(Decimal(match[1]) * UNITS[match[2].lower()])
    if not 10**6 <= found <= MOST:
        raise ValueError(f"{text} is {'less than 1 MB' if found < MOST else 'more than any machine has'}")
    return found


def cores(value: object) -> Decimal:
    """CPU cores; 500m is half a one. Raises ValueError."""
    text = str(value).strip()
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(m?)", text)
    try:
        found = Decimal(match[1]) / (1000 if match[2] else 1) if match and not isinstance(value, bool) else None
    except InvalidOperation:  # pragma: no cover - the pattern lets only numbers pass
        found = None
    if found is None:
        raise ValueError(f"{text[:40]!r} is no number of CPU cores: give 2, 0.5 or 500m")
    if not Decimal("0.001") <= found <= 4096:
        raise ValueError(f"{text} CPU cores: give at least 0.001 and at most 4096")
    return found


def kubernetes_size(found: int) -> str:
    """A resource quantity, exact: 16G, 24Gi, or bytes."""
    for letters, base in (("TGMk", 1000), ("TGMK", 1024)):
        for power, letter in zip((4, 3, 2, 1), letters, strict=True):
            if found % base**power == 0:
                return f"{found // base**power}{letter}{'i' if base == 1024 else ''}"
    return str(found)


def kubernetes_cores(found: Decimal) -> str:
    """2 or 500m."""
    return str(int(found)) if found == int(found) else f"{int(found * 1000)}m"


def docker_size(found: int) -> str:
    """Of a compose file, whose g is 2^30: bytes."""
    return f"{found}b"
