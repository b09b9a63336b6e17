"""Triton's kernels against their references: on a GPU where there is one, else in Triton's interpreter on the CPU.

Outputs are full of NaN before a kernel writes them, so that what it leaves out is seen. The interpreter takes the
bits of bfloat16 numbers for whole numbers where it multiplies or makes them of whole numbers, and cuts numbers off
where a GPU rounds to nearest: all are mended here, by torch's own conversions.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or torch warns, for the sake of the NaN below

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels of a test run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _seeded_and_poisoned() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)  # with which empty tensors are full of NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def _interpreter() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    import triton.language as tl
    from triton.runtime import interpreter

    kinds = {
        tl.float64: torch.float64,
        tl.float32: torch.float32,
        tl.float16: torch.float16,
        tl.bfloat16: torch.bfloat16,
        tl.float8e4nv: torch.float8_e4m3fn,
    }
    whole = {64: torch.int64, 32: torch.int32, 16: torch.int16, 8: torch.uint8}

    def as_torch(data: Any, kind: Any) -> torch.Tensor:
        bits = kind.primitive_bitwidth
        signed = np.ascontiguousarray(data).view(f"int{bits}" if bits > 8 else "uint8")
        return torch.from_numpy(signed.copy()).view(kinds[kind])

    def convert(data: Any, kind: Any, into: Any, rounding: Any) -> Any:
        assert "ODD" not in str(rounding) and "RTZ" not in str(rounding), rounding
        bits = into.primitive_bitwidth
        return as_torch(data, kind).to(kinds[into]).view(whole[bits]).numpy().view(f"uint{bits}")

    def dot(_self: Any, a: Any, b: Any, acc: Any, *_: Any) -> Any:
        x, y = (as_torch(t.data, t.dtype.scalar).to(torch.float64).numpy() for t in (a, b))
        exact = np.matmul(x, y)
        kind = acc.data.dtype
        return interpreter.TensorHandle(exact.astype(kind) + acc.data, acc.dtype.scalar)

    def from_whole(_self: Any, data: Any, into: Any) -> Any:
        numbers = torch.from_numpy(data.data.copy()).to(kinds[into.scalar])
        return interpreter.TensorHandle(
            numbers.view(whole[into.scalar.primitive_bitwidth]).numpy().view(interpreter._get_np_dtype(into)),
            into.scalar,
        )

    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpreterBuilder.create_si_to_fp = from_whole
