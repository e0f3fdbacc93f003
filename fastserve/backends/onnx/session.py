"""A session of ONNX Runtime with our settings, and what its errors mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from fastserve.engine.host_memory import cores
from fastserve.importing import needs
from fastserve.models.folder import ModelNotFoundError

LEVELS: Final = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC",
                 "off": "ORT_DISABLE_ALL"}  # fmt: skip

CPU: Final = "CPUExecutionProvider"


def runtime() -> Any:
    """The module onnxruntime. ImportError, which says how to get it.

    Its releases tell Microsoft how they are used, and keep a device's identifier in the cache folder. Not from here,
    unless the environment says ORT_DISABLE_TELEMETRY=0; it is read when the module is imported.
    """
    needs("onnx", "onnxruntime", "onnx")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


SPINNING: Final[dict[str, dict[str, str]]] = {
    "brief": {"intra_op.allow_spinning": "1", "intra_op.spin_duration_us": "200", "force_spinning_stop": "1"},
    "on": {"intra_op.allow_spinning": "1"},
    "off": {"intra_op.allow_spinning": "0"},
}
"""How threads wait for work: awake for a moment and asleep between two calls, awake for long, or always asleep. A call
of a model of 30 layers is 700 small pieces of work for all threads, and to wake one takes as long as some of these.
"""


def chosen(providers: str) -> list[str]:
    """auto: the CPU. ValueError for one that this build of ONNX Runtime does not have."""
    if providers == "auto":
        return [CPU]
    names = [name.strip() for name in providers.split(",") if name.strip()]
    there = runtime().get_available_providers()
    lacking = [name for name in names if name not in there]
    if lacking or not names:
        raise ValueError(
            f"providers={providers!r}: this ONNX Runtime has {', '.join(there)}; give some of them, or auto"
        )
    return names


def open_session(
    file: Path | bytes, *, threads: int | None, providers: str = "auto", spinning: str = "brief",
    graph_optimization: str = "all", beside: Path | None = None,
) -> Any:  # fmt: skip
    """file: or a model's bytes, whose weights are in files of the folder `beside`.

    ModelNotFoundError for a file that cannot be loaded, MemoryError, ValueError for a setting out of range."""
    ort = runtime()
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1")
    if graph_optimization not in LEVELS:
        raise ValueError(f"graph_optimization={graph_optimization!r}: the choices are {', '.join(LEVELS)}")
    if spinning not in SPINNING:
        raise ValueError(f"spinning={spinning!r}: the choices are {', '.join(SPINNING)}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised
    options.enable_mem_pattern = False  # plans of memory are found again by a hash of the shapes that is not unique
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[graph_optimization])
    for name, value in SPINNING[spinning].items():
        options.add_session_config_entry(f"session.{name}", value)
    if beside is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
    names = chosen(providers)
    told = file if isinstance(file, Path) else beside
    try:
        return ort.InferenceSession(file, options, providers=names)
    except Exception as error:
        if ran_out(error):
            raise MemoryError(f"there is no memory for {told}: {error}") from error
        raise ModelNotFoundError(f"ONNX Runtime cannot load {told}: {one_line(error)}") from error


def run_bound(session: Any, binding: Any) -> None:
    """One call on what is bound. MemoryError where there is no room for it, and what ONNX Runtime raises."""
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        if ran_out(error):
            raise MemoryError(f"ONNX Runtime has no memory for the step: {error}") from error
        raise


def ran_out(error: BaseException) -> bool:
    """Whether it says that memory ran out."""
    text = str(error).lower()
    said = ("bad_alloc", "failed to allocate", "bad allocation", "out of memory", "cannot allocate")
    return isinstance(error, MemoryError) or any(each in text for each in said)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "..."
