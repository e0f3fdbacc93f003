"""Files are written only where there are none, or where they are as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.__main__ import main
from tests.deploy.apps import ALL, SMALL


def deploy(tmp_path: Path, text: str, form: str, *flags: str) -> int:
    (tmp_path / "app.yaml").write_text(text)
    return main(["deploy", str(tmp_path / "app.yaml"), "--to", form, "--out", str(tmp_path / "out"), *flags])


def names(tmp_path: Path) -> set[str]:
    return {str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*") if each.is_file()}


def test_what_was_written_is_written_anew_and_what_is_no_more_is_removed(tmp_path: Path) -> None:
    assert deploy(tmp_path, ALL, "kubernetes") == 0
    assert "kubernetes/worker.yaml" in names(tmp_path)
    assert deploy(tmp_path, SMALL, "compose") == 0
    assert {"compose.yaml", "kubernetes/worker.yaml"} <= names(tmp_path), "another form is left alone"
    assert deploy(tmp_path, SMALL, "kubernetes") == 0
    assert "kubernetes/worker.yaml" not in names(tmp_path) and "compose.yaml" in names(tmp_path)


def test_what_is_somebody_elses_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "compose.yaml"
    mine.write_text("services: {}\n")
    assert deploy(tmp_path, SMALL, "compose") == 2
    assert "compose.yaml, which this command has not written" in capsys.readouterr().err
    assert mine.read_text() == "services: {}\n" and names(tmp_path) == {"compose.yaml"}
    assert deploy(tmp_path, SMALL, "compose", "--force") == 0
    mine.write_text(mine.read_text() + "# edited\n")
    assert deploy(tmp_path, SMALL, "compose") == 2
    assert deploy(tmp_path, SMALL, "docker") == 0, "the Dockerfile is as it was written"
    mine.unlink()
    assert deploy(tmp_path, SMALL, "compose") == 0


def test_what_has_been_changed_is_not_removed(tmp_path: Path) -> None:
    assert deploy(tmp_path, ALL, "kubernetes") == 0
    edited = tmp_path / "out" / "kubernetes" / "worker.yaml"
    edited.write_text("# mine\n")
    assert deploy(tmp_path, SMALL, "kubernetes") == 0
    assert edited.read_text() == "# mine\n"


def test_a_list_from_elsewhere_leads_to_no_file_outside(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outside = tmp_path / "kept"
    outside.write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "out" / ".fastserve-deploy.json").write_text(f'{{"docker": {{"../kept": "{empty}"}}}}')
    assert deploy(tmp_path, SMALL, "docker") == 0
    assert outside.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--to", "compose"], "--out DIR"), (["--out", "x"], "--to"), (["--to", "compose", "--out", "app.yaml"], "file")],
)
def test_what_has_to_be_given(
    tmp_path: Path, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.yaml").write_text(SMALL)
    assert main(["deploy", "app.yaml", *flags]) == 2
    assert words in capsys.readouterr().err


def test_images_are_made_from_a_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy(tmp_path, SMALL, "docker", "--source", str(tmp_path)) == 2
    assert "is no clone of this project" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("compose", "in {out}: docker compose up -d --build"),
        ("kubernetes", "kubectl apply --filename {out}/kubernetes/"),
        ("docker", "docker build --target cpu --file {out}/Dockerfile /"),
        ("local", "python -m fastserve.deploy.service start {out}"),
    ],
)
def test_the_next_step_is_told_beside_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, words: str
) -> None:
    assert deploy(tmp_path, SMALL, form) == 0
    said = capsys.readouterr()
    assert words.format(out=tmp_path / "out") in said.err and said.err.count("\n") == 1
    assert all((tmp_path / "out").joinpath(line).is_file() for line in said.out.splitlines())
