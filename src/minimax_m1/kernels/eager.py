"""`eager`: marks an op that torch.compile must leave as it is, since its tables follow from the lengths or the routing
at hand. The typed form of torch's own decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Op = TypeVar("Op", bound=Callable[..., Any])


def eager(op: Op) -> Op:
    """The same op, never traced."""
    return cast(Op, torch.compiler.disable(op))
