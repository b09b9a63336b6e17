"""What Triton's kernels have in common: the dtypes that they take, and the GPU that their work is cut for."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MULTIPROCESSORS = 132  # of an H100 or H200: asking each call would cost more than another number of programs does
