"""docs/gateway.md, the section on models that come and go: its file is one, its numbers are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.models import api, jobs, models_file, pull, registry, served_model

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "gateway.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Models that come and go")[2].partition("\n## ")[0]


def test_the_file_is_one(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", SECTION, re.S)
    assert found is not None
    path = tmp_path / "models.yaml"
    path.write_text(found[1])
    entries, defaults = models_file.read(path)
    assert list(entries) == ["small", "big", "quantised"] and defaults == {"backend": "torch", "max_batch": 8}
    assert list(entries["big"].adapters) == ["sql", "chemistry"]


def test_routes_are_there() -> None:
    paths = {getattr(route, "path", "") for route in api.router.routes}
    for path in re.findall(r"`(?:GET|POST|DELETE|GET` or `DELETE) (/[^ `?]+)", SECTION):
        shape = path.replace("NAME", "{model_id:path}").replace("ID", "{job_id}").replace("WORDS", "{query:path}")
        assert shape in paths or path == "/jobs", path


def test_numbers_are_the_codes() -> None:
    assert served_model.BACKOFF_S == (0.0, 0.5, 1.0, 2.0, 4.0) and served_model.HEALTHY_S == 60
    assert (jobs.MOST_RUNNING, jobs.MOST_OF_CLIENT, pull.MOST, registry.WATCH_S) == (16, 4, 2, 1.0)
    assert GatewayConfig.model_fields["models_max"].default == 4 and "`--models-max` (4)" in SECTION
