"""Devices that may be missing where the tests run."""

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
"""For what holds on both alike: parameters of a test or of a fixture."""


def need(device: str) -> None:
    """Skips where there is no such device."""
    torch = pytest.importorskip("torch")
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found[device]:
        pytest.skip(f"there is no {device} device here")
