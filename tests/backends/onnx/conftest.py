"""The embedded model, exported once a machine: the cache folder keeps it, and whoever comes second waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def embedded() -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from fastserve.backends.torch.to_onnx.source import folder_of

    return folder_of("embedded")
