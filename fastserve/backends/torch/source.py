"""Where a model comes from, looked at before anything heavy is imported."""

from __future__ import annotations

from fastserve.models.folder import check_tokenizer, check_weights, find_folder
from fastserve.models.gguf_file import find_gguf
from fastserve.named_models import EMBEDDED, NAMES


def look(name: str, dummy: bool) -> None:
    """Raises ModelNotFoundError for a file or folder that cannot be loaded. dummy: its weights are drawn, not read."""
    if name == EMBEDDED or find_gguf(name) is not None:
        return
    folder = find_folder(name)
    if folder is not None:
        if not dummy:
            check_weights(folder, name)
        check_tokenizer(folder, name)


def folder_for_others(name: str) -> str:
    """The folder of a model in NAMES, made now unless it is there, in float32; any other name as it is.

    For engines of other projects, which do not know these names. Raises what loading it raises.
    """
    if name not in NAMES:
        return name
    import torch

    from fastserve.backends.torch import checkpoint

    return checkpoint.find(name, torch.float32, torch.device("cpu"))
