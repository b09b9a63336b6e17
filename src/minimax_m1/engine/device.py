"""Where a model is to run: a device by its name, tried before anything is loaded."""

from __future__ import annotations

import torch

from minimax_m1.errors import RequestError


def usable(device: str | torch.device) -> torch.device:
    """The device, such as "cpu", "cuda" or "cuda:1"; raises RequestError where nothing can be put there."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise RequestError(f"device {str(device)!r} cannot be used: {why:.100}", param="device") from None
    return torch.device(device)
