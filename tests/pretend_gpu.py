"""A device that behaves as a GPU does and computes on the CPU: what was forgotten on the host is refused, and every
time the host waits for it is counted.

In: `register()`, once, in a process of its own (the fixture `pretending` makes one), before anything imports this
package. Out: the device "gpu", and a `Counter` of waits by file and line of this package. It counts what reads a
number, copies to the host, or indexes by a mask; of kernels for GPUs, autocast and streams it knows nothing.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

# Operators that torch would otherwise put together from others by strides, which a pretended tensor does not have, or
# by resizing an output, which it cannot.
_WHOLE = """
    _local_scalar_dense _copy_from copy_ view view.dtype _unsafe_view as_strided alias detach select.int slice.Tensor
    transpose.int t permute expand unsqueeze squeeze squeeze.dim split.Tensor split_with_sizes unbind.int diagonal
    unfold abs arange arange.start arange.start_step logsumexp index.Tensor index_put_ _index_put_impl_ bincount nonzero
    repeat_interleave.Tensor _unique2 equal topk sort.stable stack cat
"""
_WAITING = {"nonzero", "masked_select", "_unique2", "bincount", "repeat_interleave", "equal"}
_INDEXING = {"index", "index_put_", "_index_put_impl_"}


class Pretended(Tensor):
    """A shell on the device; what it holds lies in `_Device.held`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what it holds."""
        return self.cpu().__reduce_ex__(protocol)


class _Backend:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """The host's generator is the only one."""

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


class _Device:
    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        # By storage, since torch makes new shells of old ones; storages are kept, so that no address comes twice.
        self.held: dict[int, tuple[Any, Tensor]] = {}

    def run(self, op: Any, *args: Any, **more: Any) -> Any:
        """One operator, on the host."""
        name = op._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, more)) if isinstance(leaf, Tensor)]
        if name in ("_copy_from", "copy_"):
            source, target = args[:2] if name == "_copy_from" else args[1::-1]
            if _there(source) and not _there(target):
                self._wait()
            self._host(target).copy_(self._host(source))
            return target
        if any(map(_there, tensors)):
            # A number may come from the host, and so may an index.
            strange = [t for t in tensors if not _there(t) and t.dim() and name not in _INDEXING]
            assert not strange, f"{op} of tensors there and of {[tuple(t.shape) for t in strange]} here, at {_place()}"
        by_mask = name in _INDEXING and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name == "_local_scalar_dense" or name in _WAITING or by_mask:
            self._wait()
        shells = {id(self._host(t)): t for t in tensors if _there(t)}
        given = [
            torch.tensor(value) if isinstance(value, int | float) and str(known.type) == "Tensor" else value
            for value, known in zip(tree_map(self._host, args), op._schema.arguments, strict=False)
        ]
        named = {key: tree_map(self._host, value) for key, value in more.items() if key != "pin_memory"}
        if named.get("device") is not None:
            named["device"] = "cpu"
        if name.startswith("_fused_adam"):  # reads gradients as they lie, and shells do not show that some are turned
            given = tree_map(lambda value: value.contiguous() if isinstance(value, Tensor) else value, given)
        copied = name == "view" and not _fits(*given)
        made = given[0].reshape(given[1]) if copied else op(*given, **named)
        return tree_map(lambda out: shells.get(id(out)) if id(out) in shells else self._shell(out), made)

    def _wait(self) -> None:
        self.waits[_place()] += 1

    def _host(self, value: Any) -> Any:
        return self.held[value.untyped_storage()._cdata][1] if _there(value) else value

    def _shell(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shell = torch._C._acc.create_empty_tensor(list(value.shape), value.dtype)
        shell.__class__ = Pretended
        storage = shell.untyped_storage()
        self.held[storage._cdata] = storage, value
        return shell


def register() -> Counter[str]:
    """Makes the device known; the counter is the caller's to read and to clear."""
    backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=_Backend())
    device = _Device()
    kept.append(torch.library.Library("_", "IMPL"))
    kept[-1].fallback(device.run, "PrivateUse1")
    kept.append(torch.library.Library("aten", "IMPL"))
    for name in _WHOLE.split():
        base, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, base), overload or "default")
        kept[-1].impl(name, lambda *args, op=op, **more: device.run(op, *args, **more), "PrivateUse1")
    # Two things that it cannot do: tensors without version counters, and a fused norm's backward.
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]
    torch.nn.functional.rms_norm = _rms_norm
    return device.waits


kept: list[torch.library.Library] = []  # what was registered is forgotten with its library


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None, eps: float) -> Tensor:
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def _there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "gpu"


def _fits(tensor: Tensor, shape: list[int]) -> bool:
    try:
        tensor.view(shape)
    except RuntimeError:
        return False
    return True


def _place() -> str:
    """The nearest line of this package."""
    for frame in reversed(traceback.extract_stack()):
        if "/minimax_m1/" in frame.filename:
            return f"{frame.filename.rpartition('/minimax_m1/')[2]}:{frame.lineno} {frame.line}"
    return "elsewhere"
