"""What a folder of a model holds, before anything heavy is imported: a file that cannot be used is named in one line.

Standard library only. The loaders' own errors are about bytes and keys; these say what the file is and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
"""Of these transformers reads the first that is there."""

TOKENIZER_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
TOKENIZER_TEXT = ("merges.txt", "chat_template.jinja", "chat_template.json")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a tokenizer can be made."""

OTHER = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
"""Endings of files that may be weights under another name or of another library."""

QUANTISED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax")
"""Endings of tensors that quantised weights have."""

VALUES = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of values of which weights may be made."""

WITHOUT = "load_format=dummy does without them."
"""What can be done where weights cannot be read."""

MOST_HEADER = 100_000_000
"""Bytes that safetensors allows for the header of a file."""


class ModelNotFoundError(ValueError):
    """There is no such model, or it cannot be read; the message says what is missing."""


def find_folder(name: str) -> Path | None:
    """The folder that `name` is, checked; None where it can only be an id of the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        check_config(path, name)
        return path
    if path.is_file():
        what = fault_of(path) or "not a folder"
        raise ModelNotFoundError(f"{name} is a file, {what}; give the folder of a model, with its {CONFIG}.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFoundError(f"There is no folder {name}.")
    return None


def check_config(folder: Path, name: str) -> None:
    """Raises ModelNotFoundError where the folder is none of a model, or its config cannot be read."""
    try:
        held = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise ModelNotFoundError(f"The folder {name} cannot be read: {error.strerror}.") from error
    if not (folder / CONFIG).is_file() and not (folder / CONFIG).is_symlink():
        raise ModelNotFoundError(f"The folder {name} is no model: it has no {CONFIG}{_instead(folder, held)}.")
    config = read_json(folder / CONFIG, name)
    if not config.get("model_type") and not config.get("auto_map"):
        raise ModelNotFoundError(f"The {CONFIG} of {name} names no model_type, so it is not a model of transformers.")
    if (folder / "generation_config.json").is_file():
        read_json(folder / "generation_config.json", name)


def check_weights(folder: Path, name: str) -> str:
    """The file that will be read, or the one that names those. Raises ModelNotFoundError where weights are missing, cut
    short, or something else than they are called.
    """
    found = next((folder / each for each in WEIGHTS if (folder / each).exists() or (folder / each).is_symlink()), None)
    if found is None:
        held = sorted(each.name for each in folder.iterdir())
        raise ModelNotFoundError(
            f"The weights of {name} cannot be read: there is no {SAFETENSORS}{_instead(folder, held)}. {WITHOUT}"
        )
    if found.suffix == ".json":
        for shard, tensors in _shards(found, name).items():
            _check_file(folder / shard, name, tensors)
    else:
        _check_file(found, name, ())
    return found.name


def check_tokenizer(folder: Path, name: str) -> bool:
    """Whether there is a tokenizer. Raises ModelNotFoundError where one is begun and cannot be read."""
    for each in TOKENIZER_JSON:
        if (folder / each).is_file():
            read_json(folder / each, name, whole=each != "tokenizer.json")
    for each in (*VOCABULARIES, *TOKENIZER_TEXT):
        if (folder / each).is_file() and (fault := fault_of(folder / each)):
            raise ModelNotFoundError(f"The {each} of {name} is {fault}.")
    if any((folder / each).is_file() for each in VOCABULARIES):
        return True
    if (folder / "tokenizer_config.json").is_file() and not read_json(folder / "tokenizer_config.json", name).get(
        "auto_map"
    ):
        raise ModelNotFoundError(
            f"The tokenizer of {name} has no vocabulary: there is a tokenizer_config.json, and none of "
            f"{', '.join(VOCABULARIES)}. Without tokenizer_config.json the model is served by token ids."
        )
    other = sorted(each.name for each in (*folder.glob("tekken.json"), *folder.glob("*.tiktoken")))
    if other and not (folder / "tokenizer_config.json").is_file():
        raise ModelNotFoundError(
            f"The tokenizer of {name} is {other[0]}, which is not read here: put the tokenizer.json of the version for "
            "transformers beside it."
        )
    return (folder / "tokenizer_config.json").is_file()


def tokenizer_fault(folder: Path, name: str) -> None:
    """Raises ModelNotFoundError for what is wrong with a tokenizer.json that the library could not make use of."""
    path = folder / "tokenizer.json"
    if path.is_file() and "model" not in read_json(path, name):
        raise ModelNotFoundError(f"The {path.name} of {name} is not one of the library tokenizers: it has no model.")


def read_json(path: Path, name: str, whole: bool = True) -> dict[str, Any]:
    """An object. whole=False: only its first bytes are looked at, and the result is empty."""
    if fault := fault_of(path):
        raise ModelNotFoundError(f"The {path.name} of {name} is {fault}.")
    if not whole:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFoundError(f"The {path.name} of {name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelNotFoundError(f"The {path.name} of {name} is not text (UTF-8), so not JSON.") from error
    except (ValueError, RecursionError) as error:
        where = f"{error.msg}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ModelNotFoundError(f"The {path.name} of {name} is not valid JSON ({where}).") from error
    if not isinstance(found, dict):
        raise ModelNotFoundError(f"The {path.name} of {name} holds {type(found).__name__}, not a JSON object.")
    return found


def fault_of(path: Path) -> str:
    """What a file is instead of what it is called, by its first bytes; "" for nothing that is known."""
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, which is not there"
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"not readable: {error.strerror}"
    if not head:
        return "empty: copy or fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: `git lfs pull` in its folder fetches it"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the file itself: the download went wrong"
    if head.startswith(b"\x1f\x8b"):
        return "compressed (gzip): unpack it"
    return ""


def _instead(folder: Path, held: list[str]) -> str:
    """What there is in place of a model's files, with what to do."""
    if not held:
        return ", it is empty"
    if "adapter_config.json" in held:
        base = _base(folder / "adapter_config.json")
        return (
            f". It holds a LoRA adapter{base}, which is not served by itself: serve its base with "
            f"--lora NAME={folder}, or merge it into its base (peft: merge_and_unload, then save_pretrained) and give "
            "that folder"
        )
    if packed := [each for each in held if each.endswith(".gguf")]:
        return f". It holds GGUF, llama.cpp's format: give the file itself, as {folder / packed[0]}"
    if "params.json" in held or any(each.startswith("consolidated.") for each in held):
        return ". It holds weights in their makers' own format: give the version for transformers, or convert it"
    if "model_index.json" in held:
        return ". It holds a pipeline of diffusers, not a language model"
    below = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"snapshots/*/{CONFIG}")]
    if below:
        return f". There is one below it: {max(below, key=lambda each: each.stat().st_mtime).parent}"
    other = [each for each in held if each.endswith(OTHER)]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        return f", only {other[0]}{more}, which transformers does not look for"
    return ""


def _base(path: Path) -> str:
    try:
        base = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" for {base}" if base else ""


def _shards(index: Path, name: str) -> dict[str, list[str]]:
    """File -> the tensors that the index says are in it. Raises ModelNotFoundError where a file is not there."""
    table = read_json(index, name).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(file, str) for file in table.values()):
        raise ModelNotFoundError(f"The {index.name} of {name} has no weight_map, so its weights cannot be found.")
    shards: dict[str, list[str]] = {}
    for tensor, file in table.items():
        shards.setdefault(file, []).append(tensor)
    missing = sorted(file for file in shards if not (index.parent / file).is_file())
    if missing:
        raise ModelNotFoundError(
            f"The weights of {name} are not complete: of the {len(shards)} files of {index.name} {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, {missing[0]} among them."
        )
    return shards


def _check_file(path: Path, name: str, tensors: Iterable[str]) -> None:
    """tensors: what must be in it."""
    fault = fault_of(path) or (
        _safetensors_fault(path, tensors) if path.suffix == ".safetensors" else _pickle_fault(path)
    )
    if fault:
        raise ModelNotFoundError(f"The file {path.name} of {name} is {fault}.")


def _pickle_fault(path: Path) -> str:
    """Of what PyTorch's torch.save made: a zip, or a pickle of old. Whether it holds weights only, torch.load asks."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith((b"PK", b"\x80")):
        return ""
    return "not a file of PyTorch's"


def _safetensors_fault(path: Path, tensors: Iterable[str]) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            return "a pickle of PyTorch's, not safetensors: a pickle can run code, so it is not read under this name"
        if head.startswith(b"GGUF"):
            return "in llama.cpp's format GGUF, not safetensors"
        length = int.from_bytes(head, "little")
        if size < 8 or not 2 <= length <= MOST_HEADER:
            return "not safetensors: it does not begin with a header"
        if 8 + length > size:
            return f"cut short: its header has {length} bytes, and the file {size}; fetch it again"
        try:
            header = json.loads(file.read(length))
            parts = {key: part for key, part in header.items() if key != "__metadata__"}
            end = 8 + length + max((int(part["data_offsets"][1]) for part in parts.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return "damaged: its header is not one of safetensors; fetch it again"
    if end > size:
        return f"cut short: it should have {end} bytes and has {size}; fetch it again"
    if end < size:
        return f"damaged: it should have {end} bytes and has {size}; fetch it again"
    packed = sorted(key for key in parts if key.endswith(QUANTISED)) or sorted(
        key for key, part in parts.items() if key.endswith(".weight") and part.get("dtype") not in VALUES
    )
    if packed:
        kind = parts[packed[0]].get("dtype")
        return (
            f"quantised ({packed[0]} is there, of type {kind}), which is not implemented: give the model that it was "
            "made of"
        )
    lacking = sorted(set(tensors) - set(parts))
    if lacking:
        return f"not the one of its index: it lacks {len(lacking)} tensors, {lacking[0]} among them"
    return ""
