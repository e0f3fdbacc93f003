"""A whole number that fits 64 bits: an int here, a machine integer where scripts/compile.py has compiled the brain."""

from typing import TypeAlias

i64: TypeAlias = int
