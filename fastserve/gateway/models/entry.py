"""Entry: a model as the gateway knows it by name, from a file or a folder of models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

LONGEST_NAME: Final = 200
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+ -]*[A-Za-z0-9._+-])?")
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
HUB_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\.gguf")

OWN: Final = (
    "model", "backend", "served_model_name", "host", "port", "workers", "config", "dotenv_code", "state_dir", "api_key",
    "api_key_file", "token_validation_url", "required_scopes", "root_path", "use_ollama", "ollama_model",
)  # fmt: skip
"""Settings of a server that its entry or the gateway says, so that options may not."""


@dataclass(frozen=True, slots=True)
class Entry:
    """path: what --model takes. backend: "" for the server's default. options: settings of `fastserve serve`.
    adapters: LoRA adapters by the name that clients use -> their folder or file. origin: "file", "folder" or "hub".
    place: of a model below --models-dir, what it is there.
    """

    name: str
    path: str
    backend: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    origin: str = "file"
    place: Path | None = None

    def with_defaults(self, defaults: dict[str, Any]) -> Entry:
        """With options for all models, which its own override; `backend` may be among them."""
        rest = {key: value for key, value in defaults.items() if key != "backend"}
        backend = self.backend or str(defaults.get("backend", ""))
        return replace(self, backend=backend, options=rest | self.options)

    def processes(self) -> list[Entry]:
        """A process each. One of llama.cpp applies its adapters to all requests, so each adapter is a process there;
        they share the weights, which are mapped from one file.
        """
        if self.backend != "llamacpp":
            return [self]
        given = self.options.get("lora") or []
        both = [given] if isinstance(given, str) else list(given)
        return [
            replace(self, adapters={}),
            *(
                replace(self, name=name, adapters={}, options=self.options | {"lora": [*both, path]}, place=None)
                for name, path in self.adapters.items()
            ),
        ]


def check_name(name: object, where: str) -> str:
    """Raises ValueError for what cannot be the name of a model. where: it comes from, for messages."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_NAME or _climbs(name):
        raise ValueError(
            f"{where}: {str(name)[:60]!r} cannot be a model's name: give letters, digits and . _ - : / @ +, beginning "
            f"with a letter or digit, without .. and at most {LONGEST_NAME} of them"
        )
    return name


def check_options(options: object, where: str) -> dict[str, Any]:
    """Raises ValueError for what are no options, or are set otherwise."""
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"{where}: options must be KEY: VALUE, settings of `fastserve serve`")
    found = {key.lstrip("-").replace("-", "_"): value for key, value in options.items()}
    for key in found:
        if key in OWN:
            instead = {"model": "path", "backend": "backend"}.get(key)
            raise ValueError(
                f"{where}: {key} is no option"
                + (f": write {instead}: beside options" if instead else ", the gateway sets it")
            )
    return found


def hub_id(text: str) -> tuple[str, str]:
    """(OWNER/NAME, file) of a name of the hub, OWNER/NAME or OWNER/NAME:FILE.gguf; the file may be "".

    Raises ValueError for anything else: it is part of a path, and may not lead elsewhere.
    """
    repo, _, file = text.partition(":")
    fits = REPO.fullmatch(repo) and len(text) <= LONGEST_NAME and not _climbs(repo) and "--" not in repo
    if not fits or (":" in text and (not HUB_FILE.fullmatch(file) or ".." in file)):
        raise ValueError(f"{text[:80]!r} is no model of the hub: give OWNER/NAME, or OWNER/NAME:FILE.gguf")
    return repo, file


def _climbs(name: str) -> bool:
    return ".." in name or "//" in name or any(part.startswith(".") for part in name.split("/"))
