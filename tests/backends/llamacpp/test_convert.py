"""fastserve convert --to gguf: what it writes is the model, in the type that was asked for."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.backends.converters import FORMATS, converter
from fastserve.backends.llamacpp import convert
from fastserve.cli.convert_check import between


def test_types_are_llama_cpps() -> None:
    assert set(convert.TYPES) == set(FORMATS["gguf"].types)
    assert set(convert.WRITTEN) <= set(convert.TYPES)


def test_formats_and_types_that_are_none() -> None:
    with pytest.raises(ValueError, match="no format is called 'pickle': give gguf, onnx"):
        converter("pickle", None)
    with pytest.raises(ValueError, match="no type of weights in gguf: give f16"):
        converter("gguf", "int8")


def test_a_distance_is_told_from_another_model() -> None:
    sure, flat = {1: -0.01, 2: -4.6}, {1: -4.6, 2: -0.01}
    assert (between([sure], [sure]).same, between([sure], [sure]).kl, between([sure], [sure]).wrong) == (1, 0.0, False)
    found = between([sure], [flat])
    assert (found.same, found.wrong) == (0, True) and found.largest == pytest.approx(4.59)
    assert between([sure], [{2: -0.01}]).wrong


def test_only_the_scripts_parts_are_unpacked(tmp_path: Path) -> None:
    inside = (
        "convert_hf_to_gguf.py",
        "conversion/llama.py",
        "gguf-py/gguf/x.py",
        "gguf-py/tests/t.py",
        "src/llama.cpp",
    )
    (tmp_path / "file").write_text("x")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        for name in inside:
            packed.add(tmp_path / "file", f"llama_cpp_python-1/vendor/llama.cpp/{name}")
        packed.add(tmp_path / "file", "llama_cpp_python-1/llama_cpp/conversion/no.py")
    convert._unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == set(inside[:3])


@pytest.mark.llamacpp
def test_the_embedded_model_in_8_bits(tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "made" / "small.gguf"
    assert main(["convert", "embedded", "--to", "gguf", "--quantize", "q8_0", "-o", str(file)]) == 0
    said = capfd.readouterr().out
    assert f"{file}: 12." in said and "the same likeliest token at" in said
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    assert main(["convert", str(file), "--quantize", "f32", "-o", str(tmp_path / "again.gguf"), "--no-check"]) == 0
    assert (tmp_path / "again.gguf").stat().st_size > 3 * file.stat().st_size


@pytest.mark.llamacpp
def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from fastserve.models.embedded import make_embedded

    folder = make_embedded()
    assert main(["convert", str(tmp_path / "none"), "--to", "gguf"]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["convert", str(folder), "--source", str(tmp_path), "-o", str(tmp_path / "x.gguf")]) == 2
    assert "name a checkout of llama.cpp" in capsys.readouterr().err
    assert main(["convert", "embedded", "-o", str(tmp_path)]) == 2
    assert "is a folder: name the file" in capsys.readouterr().err
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('as asked')")
    assert main(["convert", str(folder), "--source", str(tmp_path), "-o", str(tmp_path / "x.gguf")]) == 2
    assert "as asked" in capsys.readouterr().err and not (tmp_path / "x.gguf").exists()


@pytest.mark.llamacpp
def test_a_file_of_another_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("torch")
    from fastserve.backends.llamacpp import embedded_file

    monkeypatch.setattr(embedded_file, "_interleaved", lambda weights, heads: weights)
    embedded_file.make_embedded_file(tmp_path / "wrong.gguf")
    monkeypatch.setattr(convert, "file_of", lambda model: tmp_path / "wrong.gguf")
    assert main(["convert", "embedded", "--quantize", "f32", "-o", str(tmp_path / "x.gguf")]) == 1
    assert "another model's" in capsys.readouterr().err
