"""What every test shares: settings, devices that may be missing, and torch on one thread."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.devices import need

os.environ["FASTSERVE_COMPILED"] = "off"  # tests look into the brain, and are about its text; processes inherit this

# No test may depend on how fast the machine is; a failure prints what reproduces it.
settings.register_profile("fastserve", deadline=None, print_blob=True)
settings.load_profile("fastserve")


@pytest.fixture(autouse=True)
def _needs_device(request: pytest.FixtureRequest) -> None:
    """Skips a test marked cuda or mps where there is no such device."""
    for name in ("cuda", "mps"):
        if request.node.get_closest_marker(name):
            need(name)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: the tests share the machine with others."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
