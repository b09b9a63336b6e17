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
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import carray, cfunc, njit, types
from numba.core.cgutils import get_or_insert_function, voidptr_t
from numba.extending import intrinsic

_CALLED_INSIDE = ("omp_get_num_threads", "omp_get_thread_num", "sched_yield")
_MEETING = 2  # numbers in front of a body's own: threads that have come to the barrier, and how often all have
_LOOKS = 1000  # at the others, about a microsecond, before a waiting thread lets somebody else have its core
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
        self._pack = struct.Struct(f"{_MEETING + count}q").pack

    def __call__(self, work: int, *numbers: int) -> None:
        """Runs on all of torch's threads where `work` multiply-adds are worth it, else on the caller's."""
        data = self._pack(*(0,) * _MEETING, *numbers)  # new at each call, and nobody else's: threads meet in it
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


@lru_cache(maxsize=4096)
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
def _yield(_typing: Any) -> Any:
    return _entry("sched_yield")


@intrinsic
def _add(_typing: Any, _address: Any, _value: Any) -> Any:
    """Adds to a number that threads share, all of them seeing what was written before; gives what it was."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        at = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", at, values[1], "seq_cst")

    return types.int64(types.int64, types.int64), code


@intrinsic
def _look(_typing: Any, _address: Any) -> Any:
    """A number that threads share, as it is now."""

    def code(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        at = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(at, "acquire", 8)

    return types.int64(types.int64), code


@njit
def barrier(given: Any) -> None:
    """Waits until every thread of the region has come here; `given` is what `numbers` gave.

    OpenMP's own spins for milliseconds before it gives way, and where another program holds a core the thread that it
    waits for may be the one that cannot run: a step of two such programs took 250 ms instead of 1.2.
    """
    threads = np.int64(_threads())
    if threads == 1:
        return
    at_come = given.ctypes.data - 8 * _MEETING
    at_met = at_come + 8
    met = _add(at_met, 0)
    if _add(at_come, 1) == threads - 1:
        _add(at_come, -threads)
        _add(at_met, 1)
        return
    looks = 0
    while _look(at_met) == met:
        looks += 1
        if looks % _LOOKS == 0:
            _yield()


@njit
def numbers(data: Any, count: int) -> Any:
    """The int64 numbers that the kernel was called with."""
    return carray(data, _MEETING + count, np.int64)[_MEETING:]


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
