"""docs/gateway.md is true: its flags exist, its file is one, its Python runs."""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path

import pytest

from fastserve.cli import worker
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.wire import exchange
from fastserve.server.config.settings import FastServeConfig
from tests.gateway.live import scripted

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert found is not None
    return found[1]


def test_flags_are_there() -> None:
    fields = {*GatewayConfig.model_fields, "help", "show_config"}
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)}
    parser = argparse.ArgumentParser()
    worker.add_arguments(parser)  # of `fastserve worker`, which the page starts too
    fields |= {action.dest for action in parser._actions}
    assert named - fields - {*FastServeConfig.model_fields} == set()
    assert named & set(GatewayConfig.model_fields) >= {"upstream", "router", "cooldown", "health_retries", "route_log"}


def test_the_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-far")
    path = tmp_path / "gateway.yaml"
    path.write_text(block("yaml"))
    config = GatewayConfig(config=path)
    assert [place.url for place in config.places()] == [
        "http://10.0.0.1:8001",
        "http://10.0.0.2:8001",
        "https://far.example",
    ]
    assert config.strays() == []


async def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as url:
        lines = textwrap.indent(block("python").replace("http://127.0.0.1:8001", url), "    ")
        space: dict[str, object] = {}
        exec(f"async def run():\n{lines}", space)
        await space["run"]()  # type: ignore[operator]
    assert re.fullmatch(r".{16} length\n.{16}", capsys.readouterr().out, re.S)


def test_numbers_are_the_codes() -> None:
    defaults = {name: field.default for name, field in GatewayConfig.model_fields.items()}
    for name, shown in (
        ("health_interval", "10 s"),
        ("view_interval", "0.5 s"),
        ("cooldown", "1 s"),
        ("cooldown_most", "30 s"),
    ):
        assert f"`--{name.replace('_', '-')}` {shown}" in PAGE or f"`--{name.replace('_', '-')}` ({shown})" in PAGE
        assert float(shown.split()[0]) == defaults[name]
    assert defaults["max_retries"] == 3 and defaults["health_retries"] == 3
    assert exchange.HELD == 256 << 10 and exchange.HEAD_BYTES == 64 << 10
