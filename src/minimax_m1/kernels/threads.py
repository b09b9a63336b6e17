"""Compiled CPU kernels on torch's own threads: a body written in numba, run by every thread of one OpenMP region.

In: a body `body(data)`, where `data` points at int64 numbers: addresses and sizes. Out: a `Kernel`, called with those
numbers. Threads come from the OpenMP pool that torch has loaded, not from one of numba's: so the two never fight for
cores, `torch.set_num_threads` rules both, and any Python threads may call at once. Only `Ops.cpu()` leads here, so
nobody else imports numba.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import carray, cfunc, njit, types
from numba.core.cgutils import get_or_insert_function, voidptr_t
from numba.extending import intrinsic

_CALLED_INSIDE = ("GOMP_barrier", "omp_get_num_threads", "omp_get_thread_num")
# Multiply-adds above which a call takes all threads, about 60 µs on one core. Smaller ones would gain little (1.56 ms a
# token of a 29.8M model either way), and where another program holds a core each wait for a thread costs milliseconds.
_WORTH_THREADS = 2**19


class Kernel:
    """A compiled body. A call returns when every thread has finished; arguments are addresses and sizes, unchecked."""

    def __init__(self, body: Callable[[Any], None], count: int) -> None:
        """Compiles a body that reads `count` numbers: 0.4 seconds, or a tenth where numba's cache has it."""
        pool = ctypes.CDLL(None)  # all that is loaded, torch's OpenMP with it
        for name in _CALLED_INSIDE:
            binding.add_symbol(name, ctypes.cast(getattr(pool, name), ctypes.c_void_p).value)
        compiled = _compile(body)
        self._compiled = compiled  # owns the code behind the address
        self._address: int = compiled.address
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(compiled.address)
        self._region = pool.GOMP_parallel
        self._region.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
        self._region.restype = None
        self._pack = struct.Struct(f"{count}q").pack

    def __call__(self, work: int, *numbers: int) -> None:
        """Runs on all of torch's threads where `work` multiply-adds are worth it, else on the caller's."""
        data = self._pack(*numbers)  # bodies only read it
        threads = torch.get_num_threads() if work >= _WORTH_THREADS else 1
        if threads > 1:
            self._region(self._address, data, threads, 0)
        else:
            self._alone(data)


def _compile(body: Callable[[Any], None]) -> Any:
    # Sums may be taken in any order, as in every matrix product; NaN and infinity keep their meaning.
    build = {"sig": types.void(types.voidptr), "fastmath": {"contract", "reassoc"}}
    try:
        # numba compiles anew when the body's file changes, but does not watch this one: after an edit here, remove
        # the *.nbi files in __pycache__.
        return cfunc(cache=True, **build)(body)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return cfunc(**build)(body)  # neither the package nor the user has a folder to write to


def as_number(value: float) -> int:
    """The 64 bits of a real number, for a body that reads them back with `real`."""
    (bits,) = struct.unpack("q", struct.pack("d", value))
    return int(bits)


@intrinsic
def pointer(_typing: Any, _address: Any) -> Any:
    """An address as what `carray` takes."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], voidptr_t)

    return types.voidptr(types.int64), code


def _entry(name: str) -> Any:
    """A call of one of the pool's functions: no argument, a 32-bit result."""

    def code(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        return builder.call(get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), ()), name), ())

    return types.int32(), code


@intrinsic
def _thread(_typing: Any) -> Any:
    return _entry("omp_get_thread_num")


@intrinsic
def _threads(_typing: Any) -> Any:
    return _entry("omp_get_num_threads")


@intrinsic
def barrier(_typing: Any) -> Any:
    """Waits until every thread of the region has come here. (It returns nothing; the 32 bits are noise.)"""
    return _entry("GOMP_barrier")


@njit
def numbers(data: Any, count: int) -> Any:
    """The int64 numbers that the kernel was called with."""
    return carray(data, count, np.int64)


@njit
def real(bits: Any) -> Any:
    """The float64 number behind `as_number`."""
    return np.int64(bits).view(np.float64)


@njit
def floats(address: int, count: int) -> Any:
    """`count` float32 numbers in memory."""
    return carray(pointer(address), count, np.float32)


@njit
def integers(address: int, count: int) -> Any:
    """`count` int64 numbers in memory."""
    return carray(pointer(address), count, np.int64)


@njit
def share(count: int) -> Any:
    """First and last + 1 of this thread's part of `count` rows."""
    thread, threads = np.int64(_thread()), np.int64(_threads())
    return thread * count // threads, (thread + 1) * count // threads
