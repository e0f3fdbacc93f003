"""Optional CPU kernels (README.md beside this file). `load()` returns them, or None where they are not available."""

from fastserve.backends.torch.native.library import Native, Packed, load

__all__ = ["Native", "Packed", "load"]
