"""Stand-ins for the parts of vLLM that our Scheduler inside it touches, so that its tests run without vLLM.

Each module is what the vllm modules of its line in MODULES are, of the release that tests/vllm/test_standin.py holds it
against: for text alone, one attention group, no connectors, no LoRA, a scheduler that gives the same schedule.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

MODULES: dict[str, str] = {
    "vllm.sampling_params": "request",
    "vllm.v1.engine": "output",
    "vllm.v1.request": "request",
    "vllm.v1.outputs": "output",
    "vllm.v1.core.sched.output": "output",
    "vllm.v1.core.sched.request_queue": "queue",
    "vllm.v1.core.sched.interface": "interface",
    "vllm.v1.core.sched.scheduler": "scheduler",
    "vllm.v1.core.sched.async_scheduler": "async_scheduler",
    "vllm.v1.core.kv_cache_manager": "blocks",
    "vllm.v1.core.block_pool": "blocks",
    "vllm.v1.core.kv_cache_utils": "blocks",
    "vllm.v1.kv_cache_interface": "blocks",
    "vllm.v1.metrics.stats": "stats",
}
"""Module of vLLM -> the one here that stands for it."""


def install() -> None:
    """Puts them where `import vllm` finds them. RuntimeError where vLLM has been imported."""
    if "vllm" in sys.modules:
        raise RuntimeError("vllm is imported already: the stand-ins are for where it is not installed")
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched", "vllm.v1.metrics", "vllm.logger"):
        module = sys.modules[name] = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
    top = sys.modules["vllm"]
    assert top.__spec__ is not None and top.__spec__.submodule_search_locations is not None
    top.__spec__.submodule_search_locations.append(str(Path(__file__).parent))  # where _version.py is
    sys.modules["vllm.logger"].init_logger = logging.getLogger  # type: ignore[attr-defined]
    for name, own in MODULES.items():
        sys.modules[name] = importlib.import_module(f"{__name__}.{own}")
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, sys.modules[name])


def remove() -> None:
    """Takes them away again, and what has imported them."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]
