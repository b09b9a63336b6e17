"""Documents packed end to end into one step's batch, without padding and without cutting any.

In: documents. Out: a `TrainingBatch`: the model's packed `Batch`, and of each document the rows that the loss reads,
with the id to predict, its weight, and whether it is learned in full. Documents see nothing of each other: segments
isolate both kinds of attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from minimax_m1.kernels.segments import Segments
from minimax_m1.model.batch import Batch
from minimax_m1.train.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """`tail[n]`: how many last rows of document n the loss reads, from its first weight above 0 on, at least 1.

    R = sum(tail) rows, document by document, in the order of `model.run(batch, state, logits=tail)`:
    targets [R] int64: the next id of the same document; weights [R] float32: 0 at each document's last row; learned
    [R] bool: whether the target was said, so that the loss counts it in full.
    """

    batch: Batch
    targets: Tensor
    weights: Tensor
    learned: Tensor
    tail: list[int]


def pack(documents: Sequence[Document], prompt_weight: float) -> TrainingBatch:
    """One batch of all the documents; tokens that are said weigh 1, the others `prompt_weight`."""
    assert documents, "a batch holds at least one document"
    lengths = [len(document.ids) for document in documents]
    tail = [_tail(document, prompt_weight) for document in documents]
    targets, said = [], []
    for document, rows in zip(documents, tail, strict=True):
        assert len(document.ids) == len(document.said) == len(document.positions)
        # The last row has nothing to predict: any id does, and its weight is 0.
        targets += [*document.ids[len(document.ids) - rows + 1 :], 0]
        said += [*document.said[len(document.ids) - rows + 1 :], 0]
    learned = _tensor(said) > 0
    weights = torch.where(learned, 1.0, prompt_weight)
    weights[torch.tensor(tail).cumsum(0) - 1] = 0
    return TrainingBatch(
        batch=Batch(
            ids=_tensor([*chain.from_iterable(document.ids for document in documents)]),
            segments=Segments.of(lengths),
            positions=_tensor([*chain.from_iterable(document.positions for document in documents)]),
        ),
        targets=_tensor(targets),
        weights=weights,
        learned=learned,
        tail=tail,
    )


def _tensor(numbers: list[int]) -> Tensor:
    """int64; through numpy, which reads a list six times as fast."""
    return torch.from_numpy(np.array(numbers, np.int64))


def _tail(document: Document, prompt_weight: float) -> int:
    """Rows from the first that predicts a token with weight; the last row where there is none."""
    length = len(document.ids)
    if prompt_weight > 0:
        return length
    said = document.said
    return length - next((row for row in range(length - 1) if said[row + 1]), length - 1)
