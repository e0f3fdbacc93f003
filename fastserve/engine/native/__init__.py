"""Optional CPU kernels (README.md beside this file). `load()` gives them, or None where PyTorch has to do."""

from fastserve.engine.native.library import Native, Packed, load

__all__ = ["Native", "Packed", "load"]
