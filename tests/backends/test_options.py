"""Options of backends: one table, and every way to give one leads to the backend."""

from __future__ import annotations

import argparse
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastserve.backends import BACKENDS, find
from fastserve.backends.options import DEFAULTS, OLLAMA, OPTIONS, expanded, passed_on, table
from fastserve.cli import ab, chat, generate, profile
from fastserve.cli.arguments import body_of, options_of
from fastserve.engine import Engine
from fastserve.importing import MissingPackageError
from fastserve.launch import Body

PYTHON_ONLY = {"torch": {"seed"}, "scripted": {"fail", "fail_step"}, "upstream": {"lookahead"}}
"""Backend -> its keyword-only parameters that are for tests and programs."""

OWN = f"""
from fastserve.backends.scripted import ScriptedBackend

class Own(ScriptedBackend):
    def __init__(self, model, wanted=None, hardware=None, *,
                 {", ".join(f"{name}={option.default!r}" for name, option in OPTIONS.items())}):
        super().__init__(model, wanted, hardware)
        given = dict(locals())
        self.settings |= {{name: given[name] for name in {list(OPTIONS)}}} | {{"model": model}}
"""


def another(name: str) -> Any:
    """A valid value that is not the default."""
    option = OPTIONS[name]
    if option.choices:
        return next(value for value in option.choices if value != option.default)
    if name == "dtype":
        return "bfloat16"
    if name == "device":
        return "cpu"
    if name == "speculate":
        return "ngram:7"
    return {bool: True, int: 7, float: 0.5, tuple: ("a", "b:0.5"), str: "x"}[option.kind]


def words(name: str) -> list[str]:
    flag, value = f"--{name.replace('_', '-')}", another(name)
    if isinstance(value, tuple):
        return [word for each in value for word in (flag, each)]
    return [flag] if value is True else [flag, str(value)]


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py:Own"


def parsed(command: Any, argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(argv)


EVERY = pytest.mark.parametrize("name", OPTIONS)


def told(name: str, engine: Engine) -> Any:
    """The option, of an engine that is closed; the others are at their defaults."""
    with engine:
        found = engine.settings
    assert {each: found[each] for each in OPTIONS if each != name} == {
        each: value for each, value in DEFAULTS.items() if each != name
    }
    return found[name]


def server_engine(**settings: Any) -> Engine:
    from fastserve.server.config.settings import FastServeConfig
    from fastserve.server.run import make_engine

    return make_engine(FastServeConfig(**settings))


@EVERY
@pytest.mark.parametrize("command", [generate, chat, ab, profile])
def test_by_flag(name: str, command: Any, own: str) -> None:
    args = parsed(command, ["--backend", own, *words(name)])
    assert body_of(args).options == {name: another(name)}


@EVERY
def test_by_flag_environment_and_file_of_a_server(
    name: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydantic_settings")
    from fastserve.cli import serve

    given = vars(parsed(serve, ["--backend", own, *words(name)]))
    given.pop("show_config")
    assert told(name, server_engine(**given)) == another(name)
    file = tmp_path / "serving.yaml"
    file.write_text(json.dumps({"serving": {"backend_type": own, name: another(name)}}))
    assert told(name, server_engine(config=file)) == another(name)
    value = another(name)
    monkeypatch.setenv(f"FASTSERVE_{name.upper()}", ",".join(value) if isinstance(value, tuple) else str(value))
    assert told(name, server_engine(backend=own)) == another(name)


@EVERY
def test_by_keyword(name: str, own: str) -> None:
    assert told(name, Engine.from_pretrained("m", backend=own, max_batch=2, **{name: another(name)})) == another(name)
    assert told(name, Engine.from_pretrained("m", backend_type=own, **DEFAULTS)) == DEFAULTS[name]


@EVERY
def test_a_default_never_disagrees_and_anything_else_names_who_has_it(name: str) -> None:
    assert passed_on("plain", DEFAULTS, []) == {}
    if OPTIONS[name].secret:  # it stands in an environment that other engines share
        assert passed_on("plain", {name: "key"}, []) == {}
        return
    with pytest.raises(ValueError, match=f"backend plain has no setting '{name}'; it has none") as caught:
        passed_on("plain", {name: another(name)}, [])
    assert str(caught.value).endswith(f"{name} is of {', '.join(OPTIONS[name].backends)}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_table_is_what_the_backends_take(backend: str) -> None:
    try:
        kind = find(backend)
    except (MissingPackageError, ModuleNotFoundError) as error:
        pytest.skip(str(error))
    found: dict[str, Any] = {}
    for call in (getattr(kind, "load", None), kind):
        if call is not None:
            found |= {
                name: one.default
                for name, one in inspect.signature(call).parameters.items()
                if one.kind is one.KEYWORD_ONLY
            }
    python_only = PYTHON_ONLY.get(backend, set())
    listed = {name for name, option in OPTIONS.items() if backend in option.backends}
    assert found.keys() - python_only == listed
    usual = {name: DEFAULTS[name] for name in listed} | ({"max_model_len": 2048} if backend == "scripted" else {})
    assert {name: found[name] for name in listed} == usual


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"threads": "many"}, "threads='many' must be a whole number"),
        ({"quantize": "int2"}, "quantize='int2' is none of none, int8, int4"),
        ({"spinning": "yes"}, "spinning='yes' is none of brief, on, off"),
        ({"trust_remote_code": "yes"}, "trust_remote_code='yes' must be True or False"),
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization=0 must be above 0 and at most 1"),
        ({"gpu_memory_utilization": True}, "gpu_memory_utilization=True must be above 0 and at most 1"),
        ({"device": None}, "device=None must be a text"),
        ({"providers": 3}, "providers=3 must be a text"),
        ({"lora": [1]}, r"lora=\[1\] must be a text, or a list of some"),
        ({"upstream_key": 12345}, "^upstream_key must be a text$"),
    ],
)
def test_a_value_that_is_none(options: dict[str, Any], said: str, own: str) -> None:
    with pytest.raises(ValueError, match=said):
        Body("m", own, **options)


def test_a_value_that_is_none_is_refused_before_a_backend_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.backends.find", lambda name: pytest.fail(f"{name} is imported"))
    for backend, options in (("torch", {"weights": "quarter"}), ("onnx", {"quantize": "int2"})):
        with pytest.raises(ValueError, match="is none of"):
            Body("embedded", backend, **options)


def test_a_server_knows_before_it_loads_anything() -> None:
    settings = pytest.importorskip("fastserve.server.config.settings")
    assert settings.FastServeConfig(speculate="draft:some:model:3").speculate == "draft:some:model:3"
    with pytest.raises(ValueError, match="speculate='ngram:0'"):
        settings.FastServeConfig(speculate="ngram:0")


def test_options_of_ones_own_by_keyword(tmp_path: Path) -> None:
    file = tmp_path / "shouting.py"
    file.write_text(OWN.replace("*,", "*, shout=False,").replace('{"model"', '{"s": shout, "model"'))
    with Engine.from_pretrained("m", backend=f"{file}:Own", shout=True, policy="las", max_batch_size=3) as engine:
        assert engine.settings["s"] is True and engine.serving.max_batch == 3
    with pytest.raises(ValueError, match="an engine has no setting 'shuot'"):
        Engine.from_pretrained("m", backend=f"{file}:Own", shuot=True)


def test_the_short_form_of_ollama() -> None:
    whole = {"backend": "upstream", "upstream_api": "ollama", "upstream": OLLAMA, "model": "m"}
    assert expanded({"use_ollama": True, "ollama_model": "m"}) == whole
    assert expanded({"ollama_model": "m"}) == whole
    assert expanded({"use_ollama": False, "ollama_model": "m"}) == {}
    assert expanded({"use_ollama": True, "upstream": "http://h:1"})["upstream"] == "http://h:1"
    with pytest.raises(ValueError, match="use_ollama means backend='upstream', and backend is 'torch'"):
        expanded({"use_ollama": True, "backend_type": "torch"})
    with pytest.raises(ValueError, match="backend is given twice"):
        expanded({"backend": "torch", "backend_type": "torch"})


@pytest.mark.parametrize("argv", [["--use-ollama", "--model", "m"], ["--ollama-model", "m"], ["--model", "m"]])
@pytest.mark.parametrize("command", [generate, chat, ab])
def test_the_short_form_as_a_flag(argv: list[str], command: Any) -> None:
    args = parsed(command, ["--upstream", "http://h:1", *argv] if "--model" in argv[:1] else argv)
    short = argv[0] != "--model"
    assert args.model == "m" and args.backend == ("upstream" if short else "torch")
    assert args.upstream == (OLLAMA if short else "http://h:1")
    assert options_of(args)["upstream"] == args.upstream


def test_the_short_form_in_a_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydantic_settings")
    from fastserve.server.config.settings import FastServeConfig

    file = tmp_path / "serving.yaml"
    file.write_text("serving: {use_ollama: true, ollama_model: deepseek-r1:14b}\n")
    config = FastServeConfig(config=file)
    assert (config.backend, config.model, config.upstream) == ("upstream", "deepseek-r1:14b", OLLAMA)
    monkeypatch.setenv("FASTSERVE_USE_OLLAMA", "false")
    assert FastServeConfig(config=file).backend == "torch"
    monkeypatch.setenv("FASTSERVE_USE_OLLAMA", "true")
    with pytest.raises(ValueError, match="use_ollama means backend='upstream', and backend is 'scripted'"):
        FastServeConfig(backend="scripted")


def test_a_key_is_shown_nowhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydantic_settings")
    from fastserve.__main__ import main

    assert main(["serve", "--show-config", "--upstream-key", "s3cret"]) == 0
    assert "s3cret" not in "".join(capsys.readouterr())
    monkeypatch.delenv("FASTSERVE_UPSTREAM_KEY", raising=False)
    body: Any = ab._servers(parsed(ab, ["--trace", "t", "--upstream-key", "s3cret"]))
    assert "s3cret" not in f"{body.flags} {body.about}"
    assert os.environ.pop("FASTSERVE_UPSTREAM_KEY") == "s3cret"


def test_the_table_of_the_docs() -> None:
    assert table() in (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
