"""Documents packed end to end into one step's batch, without padding and without cutting any.

In: documents. Out: a `TrainingBatch`: the model's packed `Batch`, the id to predict at each row, and its weight.
Documents see nothing of each other: segments isolate both kinds of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minimax_m1.kernels.segments import Segments
from minimax_m1.model.batch import Batch
from minimax_m1.train.data import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """targets [T]: the next id of the same document; weights [T]: 0 at each document's last row."""

    batch: Batch
    targets: Tensor
    weights: Tensor


def pack(documents: Sequence[Document], prompt_weight: float) -> TrainingBatch:
    """One batch of all the documents; the assistant's tokens weigh 1, the others `prompt_weight`."""
    ids = [torch.tensor(d.ids) for d in documents]
    said = [torch.tensor(d.said, dtype=torch.float32) for d in documents]
    weights = [prompt_weight + (1 - prompt_weight) * s.roll(-1) for s in said]
    for weight in weights:
        weight[-1] = 0
    return TrainingBatch(
        batch=Batch(
            ids=torch.cat(ids),
            segments=Segments.of([len(d.ids) for d in documents]),
            positions=torch.cat([torch.tensor(d.positions) for d in documents]),
        ),
        targets=torch.cat([i.roll(-1) for i in ids]),
        weights=torch.cat(weights),
    )
