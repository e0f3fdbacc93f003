"""Adapters: those of one model. They are read by any thread, and put in place between two steps."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from fastserve.backends.torch.input_batch import InputBatch, Rows, pack
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.lora.layers import Layers
from fastserve.backends.torch.lora.peft_folder import WEIGHTS, AdapterError, bytes_of, read
from fastserve.backends.torch.memory import free_device_memory
from fastserve.engine.adapters import Adapter, AdapterInUseError, UnknownAdapterError, check_name
from fastserve.engine.host_memory import free_host_memory

log = logging.getLogger("fastserve")

COPIES = 6
"""Times the bytes of its file that an adapter may take for a moment: as read, in float32, scaled, and in place."""


class Adapted(Protocol):
    """What is used here of the model, see model.Model."""

    name: str
    module: Any
    dtype: torch.dtype
    device: torch.device
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def native(self) -> Any: ...
    def forward(self, step: InputBatch, cache: Cache) -> torch.Tensor: ...


class Ready(NamedTuple):
    """Read and checked, not yet in place. parts: see Layers.made()."""

    name: str
    path: str
    base: str
    rank: int
    bytes: int
    parts: dict[int, Any]


class Adapters:
    """most: how many there may be at once. max_rank: of each."""

    def __init__(self, model: Adapted, most: int, max_rank: int) -> None:
        self.model = model
        self.most = most
        self.max_rank = max_rank
        self.loaded: dict[str, Adapter] = {}
        """By name; another dict whenever it changes, so that any thread may read it."""
        self.uses: Counter[int] = Counter()  # jobs of each, by its number
        self._slots: dict[int, int] = {}  # number -> slot
        self._layers: Layers | None = None
        self._lock = threading.Lock()
        self._next = 1

    @property
    def bytes(self) -> int:
        return sum([adapter.bytes for adapter in self.loaded.values()])

    def read(self, name: str, path: str) -> Ready:
        """Any thread; it may take a while. Raises ValueError for what cannot be loaded, OSError for a file that cannot
        be read, MemoryError.
        """
        self._check(check_name(name))
        folder = Path(path).expanduser()
        layers = self._all_layers()
        self._make_sure_of_memory(name, folder)
        found = read(folder, layers.shapes, self.max_rank)
        cpu = self.model.device.type == "cpu"
        size = bytes_of(found.factors, torch.float32 if cpu else self.model.dtype)
        return Ready(name, path, found.base, found.rank, size, layers.made(found.factors))

    def place(self, ready: Ready) -> Adapter:
        """Between two steps. Tries it on two tokens; one that fails is not there afterwards. Raises ValueError."""
        self._check(ready.name)
        slot = next(slot for slot in range(self.most) if slot not in self._slots.values())
        layers = self._all_layers()
        layers.put(slot, ready.parts)
        try:
            finite = bool(self._try(slot).isfinite().all())
            why = "" if finite else "with it the model's logits are not finite"
        except (RuntimeError, TypeError) as error:
            why = f"with it the model's forward pass fails: {error}"
        if why:
            layers.put(slot, {})
            raise AdapterError(f"adapter {ready.name}: {why}")
        made = Adapter(ready.name, ready.path, ready.base, ready.rank, ready.bytes, self._next)
        self._next += 1
        self._slots[made.number] = slot
        self.loaded = {**self.loaded, made.name: made}
        log.info("adapter %s: rank %d, %d bytes, from %s", made.name, made.rank, made.bytes, made.path)
        return made

    def load(self, name: str, path: str) -> Adapter:
        """read() and place() in one, where nothing runs."""
        return self.place(self.read(name, path))

    def drop(self, name: str) -> None:
        """Between two steps. Raises UnknownAdapterError, and AdapterInUseError while jobs of it live."""
        adapter = self.loaded.get(name)
        if adapter is None:
            raise UnknownAdapterError(f"no adapter {name!r} is loaded")
        if self.uses[adapter.number]:
            raise AdapterInUseError(f"adapter {name!r} is in use by {self.uses[adapter.number]} requests: unload it "
                                    "when they have ended")  # fmt: skip
        self.loaded = {other: one for other, one in self.loaded.items() if other != name}
        self._all_layers().put(self._slots.pop(adapter.number), {})

    def take(self, adapter: Adapter) -> int:
        """The slot for a job of it, until give(). Raises UnknownAdapterError where it has gone meanwhile."""
        with self._lock:
            if adapter.number not in self._slots:
                raise UnknownAdapterError(f"adapter {adapter.name!r} was unloaded before this request began")
            self.uses[adapter.number] += 1
        return self._slots[adapter.number]

    def give(self, adapter: Adapter) -> None:
        with self._lock:
            self.uses[adapter.number] -= 1

    def _check(self, name: str) -> None:
        if name in self.loaded:
            raise AdapterError(f"adapter {name!r} is loaded already: unload it first, or give another name")
        if name == self.model.name:
            raise AdapterError(f"an adapter cannot be called {name!r}: the base model is")
        if len(self.loaded) >= self.most:
            raise AdapterError(f"{len(self.loaded)} adapters are loaded, and max_loras={self.most} is how many there "
                               "may be at once: unload one first")  # fmt: skip

    def _make_sure_of_memory(self, name: str, folder: Path) -> None:
        """Raises AdapterError for one that memory has no room for: a system may promise more than it has."""
        file = folder / WEIGHTS
        takes = COPIES * file.stat().st_size if file.is_file() else 0
        rooms = {"the host's memory": free_host_memory()}
        if self.model.device.type == "cuda":
            rooms["device memory"] = free_device_memory(self.model.device)
        for where, free in rooms.items():
            if takes > free:
                raise AdapterError(f"adapter {name!r} takes up to {takes:,} bytes of {where} while it is loaded, and "
                                   f"{free:,} are free: unload another one")  # fmt: skip

    def _all_layers(self) -> Layers:
        with self._lock:
            if self._layers is None:
                self._layers = Layers(self.model.module, self.model.native, self.most)
            return self._layers

    @torch.inference_mode()
    def _try(self, slot: int) -> torch.Tensor:
        model = self.model
        cache = Cache(model.layers, model.kv_heads, model.head_dim, 1, 0, 2, model.dtype, model.device)
        try:
            return model.forward(pack([], [Rows([0, 1 % model.vocab_size], 0, [0], True, slot)], 2, True), cache)
        finally:
            cache.free()
