"""What the tests of llama.cpp's body share: they are skipped where llama-cpp-python is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

INSTALLED = find_spec("llama_cpp") is not None
WHY = "llama-cpp-python is not installed: make test-llamacpp runs this"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marked llamacpp: needs the real one, whose own warnings are not ours to mend."""
    for item in items:
        if "tests/backends/llamacpp/" in item.path.as_posix() and item.get_closest_marker("llamacpp"):
            if INSTALLED:
                item.add_marker(pytest.mark.filterwarnings("default"))
            else:
                item.add_marker(pytest.mark.skip(reason=WHY))
