"""Optional CPU kernels (README.md beside this file). `load()` gives them, or None where PyTorch has to do."""

from fastserve.backends.torch.native.library import Native, Packed, load

__all__ = ["Native", "Packed", "load"]
