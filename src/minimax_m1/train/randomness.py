"""Where random numbers stand: of the CPU, and of the device that trains, which draws its own (a router's jitter).

In: a device. Out: tensors for a checkpoint. A run that goes on from it on another kind of device takes over the CPU's
alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def state(device: torch.device) -> dict[str, Tensor]:
    """`rng`, and on a GPU `rng_cuda`: generators' states, uint8, on the CPU."""
    told = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        told["rng_cuda"] = torch.cuda.get_rng_state(device)
    return told


def restore(told: Mapping[str, Tensor], device: torch.device) -> None:
    """Goes on where `state` was taken."""
    torch.set_rng_state(told["rng"])
    if device.type == "cuda" and "rng_cuda" in told:
        torch.cuda.set_rng_state(told["rng_cuda"], device)
