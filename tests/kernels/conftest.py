"""Every test draws the same numbers on every run; and what tests of memory watch with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operator made, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return out


@pytest.fixture
def largest() -> Largest:
    """A mode that remembers the largest tensor made under it."""
    return Largest()
