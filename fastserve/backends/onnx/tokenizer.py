"""The tokenizer in a model's folder: transformers' own, which needs no torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastserve.importing import needs
from fastserve.models.folder import check_tokenizer, tokenizer_fault

LOG = logging.getLogger("fastserve")


def read_tokenizer(folder: Path, name: str, trusted: bool) -> Any:
    """None where there is none: then prompts are token ids. Raises ModelNotFoundError for one that cannot be read."""
    if not check_tokenizer(folder, name):
        LOG.info("%s has no tokenizer: prompts are token ids, and there is no text", name)
        return None
    needs("onnx", "transformers", "onnx")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted, local_files_only=True)
    except Exception:
        tokenizer_fault(folder, name)
        raise
