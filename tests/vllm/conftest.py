"""What the tests of our Scheduler inside vLLM share: vLLM's classes, real where it is installed, else the stand-ins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vllm import standin
from tests.vllm.api import INSTALLED, Api, real
from tests.vllm.api import standin as standin_api


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marked vllm: needs the real one, whose own warnings are not ours to mend."""
    for item in items:
        if "tests/vllm/" not in item.path.as_posix():
            continue
        if INSTALLED:
            item.add_marker(pytest.mark.filterwarnings("default"))
        elif item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-vllm runs this"))


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    if INSTALLED:
        yield real()
        return
    standin.install()
    yield standin_api()
    standin.remove()
