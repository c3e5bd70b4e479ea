"""The compiled parts of merganser: WebAssembly, made of the ``.zig`` files here, which runs in a sandbox.

What looks at bytes from anywhere can there do no harm but give wrong numbers. ``kernel.wasm`` is kept beside its source, so that
no one who installs merganser needs a compiler; ``make kernel`` makes it anew.
"""

from __future__ import annotations

import atexit
import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:  # a tenth of a second, which commands that decode nothing need not wait
    import wasmtime

ROOM = 64
"""Bytes behind each thing in a kernel's memory, which may be read beyond its end."""

PAGE = 1 << 16


class Memory:
    """The memory of a kernel: places in it are numbers, which are given out one behind another."""

    def __init__(self, memory: wasmtime.Memory, store: wasmtime.Store, base: int) -> None:
        self._memory, self._store, self._base = memory, store, base
        self._end, self._address = base, 0

    def clear(self) -> None:
        """Take back all that was given out."""
        self._end = self._base

    def take(self, size: int) -> int:
        """Give out a place for some bytes, to be used after ``grow``."""
        place = -(-self._end // ROOM) * ROOM
        self._end = place + size + ROOM
        return place

    def grow(self) -> None:
        """Make room for all that was given out."""
        missing = self._end - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // PAGE))
        self._address = ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def write(self, place: int, what: bytes | memoryview | npt.NDArray[np.generic]) -> None:
        array = np.frombuffer(what, np.uint8)
        ctypes.memmove(self._address + place, array.ctypes.data, array.nbytes)

    def read(self, place: int, into: npt.NDArray[np.generic]) -> None:
        ctypes.memmove(into.ctypes.data, self._address + place, into.nbytes)

    def copy(self, place: int, size: int) -> pa.Buffer:
        buffer = pa.allocate_buffer(size)
        ctypes.memmove(buffer.address, self._address + place, size)
        return buffer


class Kernel:
    """A kernel with a memory of its own, for one thread at a time. It works without Python's lock."""

    def __init__(self) -> None:
        import wasmtime

        engine, module = _compiled()
        self._store = wasmtime.Store(engine)
        exports: Any = wasmtime.Instance(self._store, module, []).exports(self._store)
        self._exports = exports
        self.memory = Memory(exports["memory"], self._store, exports["__heap_base"].value(self._store))
        self.last: object = None
        """Who used it last."""
        _kernels.add(self)

    def close(self) -> None:
        self._store.close()

    def call(self, name: str, *arguments: int) -> int:
        """Call a function; the result of one that returns nothing is 0."""
        return int(self._exports[name](self._store, *arguments) or 0)


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A kernel for as long as it is needed. It is used again, with its memory, which the system would have to clear.

    Not one for each thread: Bytewax's threads are new ones to Python each time that they come, and have forgotten theirs.
    """
    try:
        found = _free.pop()
    except IndexError:
        found = Kernel()
    yield found
    _free.append(found)


_free: list[Kernel] = []
_kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()


@cache
def _compiled() -> tuple[wasmtime.Engine, wasmtime.Module]:
    import wasmtime

    config = wasmtime.Config()
    config.parallel_compilation = False  # a thread pool for 40 kB
    engine = wasmtime.Engine(config)
    module = wasmtime.Module(engine, Path(__file__).with_name("kernel.wasm").read_bytes())
    atexit.register(_close, engine, module)
    return engine, module


def _close(engine: wasmtime.Engine, module: wasmtime.Module) -> None:
    """While Python ends it is too late: wasmtime then complains that its own functions are gone."""
    for kernel in list(_kernels):
        kernel.close()
    module.close()
    engine.close()
