"""VllmSettings, the check of vLLM's release and the search for its Python, without vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fastserve.vllm import settings
from fastserve.vllm.settings import INSTALL, KEY, PYTHON_VARIABLE, TRIED, VllmSettings, check_version, interpreter


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"polcy": "fcfs"}, "has no setting 'polcy'.*did you mean policy"),
        ({"policy": None}, "policy=None must be a text"),
        ({"policy": ""}, "policy='' must be a text"),
        ({"knobs": ["quantum=1"]}, r"knobs=\['quantum=1'\] must be an object"),
        ({"slots": 0}, "slots=0 must be at least 1"),
        ({"slots": "4"}, "slots='4' must be a whole number"),
        ({"slots": True}, "slots=True must be a whole number"),
        ({"leave": "swap"}, "leave='swap' is none of park, recompute"),
        ({"visit": -1}, "visit=-1 must be at least 0"),
        ({"visit": None}, "visit=None: leave it out"),
        ({"cache": True}, "cache=True is none of auto, on, off"),
        ({"flight_log": 3}, "flight_log=3 must be a text"),
        ({"flight_log": "/a", "records": "/a"}, "flight_log and records are both '/a'"),
        ([], r"fastserve=\[\] in --additional-config must be an object"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VllmSettings.of(given)


def test_settings_survive_the_way_through_the_command_line() -> None:
    whole = VllmSettings(
        policy="/a/mine.py:Mine", knobs={"quantum": 3}, slots=4, leave="recompute", visit=0, profile="/a/hw.json",
        flight_log="/a/log", records="/a/records", cache="off",
    )  # fmt: skip
    for each in (whole, VllmSettings(), VllmSettings(policy="las")):
        assert VllmSettings.of(json.loads(json.dumps({KEY: each.to_dict()}))[KEY]) == each
    assert VllmSettings().to_dict() == {"policy": "fcfs"}


def test_each_engine_writes_files_of_its_own() -> None:
    one = VllmSettings(policy="las", flight_log="/a/flight.jsonl", records="/a/records")
    assert one.of_engine(0) == one and VllmSettings().of_engine(3) == VllmSettings()
    assert one.of_engine(2) == VllmSettings(policy="las", flight_log="/a/flight.2.jsonl", records="/a/records.2")


@pytest.mark.parametrize("release", ["0.32.0", "0.33.0", "0.32.1rc1", "0.33"])
def test_releases_that_were_tried(release: str) -> None:
    assert check_version(release) is None


@pytest.mark.parametrize("release", ["0.31.1", "0.34.0", "0.320.0", "1.0", "unknown", "0.3.2"])
def test_releases_that_were_not(release: str) -> None:
    warning = check_version(release)
    assert warning is not None and release in warning and all(series in warning for series in TRIED)


def _package(folder: Path, name: str, text: str | None) -> None:
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it must not be imported')\n")
    if text is not None:
        (package / "_version.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "release"),
    [("version: str\n__version__: str\n__version__ = version = '0.33.1'\n", "0.33.1"), (None, "unknown")],
)
def test_the_release_is_read_and_vllm_is_not_imported(
    text: str | None, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, "vllm", text)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(settings, "DISTRIBUTIONS", ("no-such-package",))
    assert settings.installed() == release


def test_where_vllm_is_missing_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    monkeypatch.setattr(settings, "BUILT", tmp_path / "python")
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert settings.installed() is None
    assert INSTALL in str(check_version())
    with pytest.raises(ValueError, match=r"make test-vllm.*FASTSERVE_VLLM_PYTHON.*pip install"):
        interpreter()


def test_the_order_in_which_its_python_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / "python"
    monkeypatch.setattr(settings, "BUILT", built)
    monkeypatch.setattr(settings, "find_spec", lambda name: object())
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    assert interpreter() == Path(sys.executable)
    built.touch(mode=0o755)
    assert interpreter() == built
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    assert interpreter() == Path(sys.executable)
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"FASTSERVE_VLLM_PYTHON=.*none is no program"):
        interpreter()
