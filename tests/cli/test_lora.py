"""`--lora NAME=FOLDER` and `--adapter`, in generate and chat."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from fastserve.__main__ import main
from fastserve.engine import Engine, SamplingParams
from fastserve.models.embedded import make_embedded
from tests.backends.torch.made_adapters import changed, write_adapter

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = ["--dtype", "float32", "--max-tokens", "8", "--temperature", "0"]
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        write_adapter(made / name, make_embedded(), seed, size=0.05)
    return made


def lora(folder: Path) -> list[str]:
    return [word for name in ("one", "two") for word in ("--lora", f"{name}={folder / name}")]


def test_generate_with_an_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one, that of --adapter, or none."""
    given = tuple(lora(folder)[1::2])
    with Engine.from_pretrained("embedded", latency="opt-13b-a100", dtype="float32", lora=given) as engine:
        params = SamplingParams(max_tokens=8, temperature=0)
        want = {name: engine.generate(PROMPT, params, name)[0].text for name in ("one", "two", "")}
    assert len(set(want.values())) == 3
    for flags, name in (([], "one"), (["--adapter", "two"], "two"), (["--adapter", "none"], "")):
        asked = ["generate", "--prompt", PROMPT, "--latency", "opt-13b-a100", *lora(folder), *FAST, *flags]
        assert main(asked) == 0
        assert capsys.readouterr().out == f"{want[name]}\n", flags


def test_a_conversation_with_an_adapter(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for name in ("one", "two"):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
        assert main(["chat", "--model", "embedded", *lora(folder), *FAST, "--adapter", name]) == 0
        said.append(capsys.readouterr().out)
    assert all(said) and said[0] != said[1]


def test_what_is_wrong_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(folder / "one", tmp_path / "dora", {"use_dora": True})
    cases = {
        "no adapter 'three' is loaded; those that are: one, two": [*lora(folder), "--adapter", "three"],
        "give NAME=FOLDER, where requests ask for model NAME": ["--lora", str(folder / "one")],
        "use_dora is set": ["--lora", f"a={tmp_path / 'dora'}"],
        "there is no folder": ["--lora", f"a={tmp_path / 'nowhere'}"],
        "max_lora_rank=2 is the largest here": [*lora(folder), "--max-lora-rank", "2"],
        "max_loras=1 is how many there may be at once": [*lora(folder), "--max-loras", "1"],
        "an adapter cannot be called 'embedded'": ["--lora", f"embedded={folder / 'one'}"],
    }
    for message, flags in cases.items():
        assert main(["generate", "--prompt", "x", "--latency", "opt-13b-a100", *FAST, *flags]) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("fastserve generate: error: ") and message in err
