"""`Activations`: how many bytes are kept for the backward pass, which is most of what training takes beside weights.

In: a model, and what runs inside the `with`. Out: a number of bytes.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Activations:
    """Counts the bytes that a forward pass keeps for its backward pass: `with Activations(model) as kept: ...`.

    Each storage counts once. The weights themselves are left out, but casts of them, as bfloat16 training makes, count.
    A backward pass inside adds nothing: what `recompute` works out anew there is gone a layer later.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._seen: dict[int, int] = {}
        self._hooks: Any = nullcontext()

    def __enter__(self) -> Activations:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """What was kept, in bytes."""
        return sum(self._seen.values())
