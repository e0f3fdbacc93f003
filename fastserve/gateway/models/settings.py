"""ModelsSettings: what the gateway is told about models that come and go. A base of GatewayConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastserve.server.config.forms import Knobs
from fastserve.server.config.ranges import Positive, Seconds


class ModelsSettings(BaseSettings):
    """Times in seconds."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # -- models that come and go
    models: Path | None = None
    """JSON or YAML: names of models -> their paths, or {path, backend, options, base_model, lora}; watched. Each gets a
    server process of its own when a request names it"""
    models_dir: Path | None = None
    """the same for all models in this folder (config.json, .gguf, .onnx), and where downloads go; watched"""
    models_max: Annotated[int, Field(ge=0, le=1000)] = 4
    """models in memory at a time, 0 for any number; the least recently used goes, never one with requests"""
    model_options: Knobs = Field(default_factory=dict)
    """settings of `fastserve serve` for all of them, KEY=VALUE; backend is one"""
    models_pull: bool = True
    """let POST /models/load and /api/pull download models from the hub"""
    idle_seconds: Seconds = 0.0
    """seconds without a request after which a model is unloaded, 0 for never"""
    load_timeout: Positive = 600.0
    """seconds that a model's server may take to start; one that fails its health checks for as long is started again"""
    manager_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """a second port, where clients of a model manager look for /models/load and its like (8001 there)"""

    @property
    def models_on(self) -> bool:
        """Whether there is anything to manage."""
        return self.models is not None or self.models_dir is not None or self.manager_port is not None
