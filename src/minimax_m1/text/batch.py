"""What calling the tokenizer gives: `input_ids` and `attention_mask`, as lists or as arrays.

In: rows of ids. Out: `TokenBatch`, a mapping that `**` unpacks into `generate`, as in transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from minimax_m1.errors import RequestError

ArrayKind = Literal["pt", "np"]


class TokenBatch(Mapping[str, Any]):
    """`input_ids` and `attention_mask`: lists, or int64 arrays [B, T]; 0 in the mask is padding."""

    def __init__(self, input_ids: Any, attention_mask: Any) -> None:
        self.input_ids = input_ids
        self.attention_mask = attention_mask

    def __getitem__(self, key: str) -> Any:
        if key not in ("input_ids", "attention_mask"):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(("input_ids", "attention_mask"))

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return f"TokenBatch(input_ids={self.input_ids!r}, attention_mask={self.attention_mask!r})"

    def to(self, device: Any) -> Self:
        """The same batch with its tensors on `device`; lists and numpy arrays stay as they are."""

        def move(value: Any) -> Any:
            return value.to(device) if hasattr(value, "to") else value

        return type(self)(move(self.input_ids), move(self.attention_mask))


def batch_rows(
    rows: Sequence[list[int]], *, pad_id: int | None, padding: bool, padding_side: str, arrays: ArrayKind | None
) -> TokenBatch:
    """Pads rows to the longest where asked and packs them.

    Raises:
        RequestError: rows of unequal length are to become one array without padding, there is no id
            to pad with, or `padding_side` or `arrays` is none of the values above.
    """
    if padding_side not in ("left", "right"):
        raise RequestError(f'padding_side must be "left" or "right", got {padding_side!r}', param="padding_side")
    if arrays not in (None, "pt", "np"):
        raise RequestError(f'return_tensors must be None, "pt" or "np", got {arrays!r}', param="return_tensors")
    longest = max(map(len, rows), default=0)
    ragged = any(len(row) != longest for row in rows)
    if arrays and ragged and not padding:
        raise RequestError("rows of unequal length need padding=True to become one tensor", param="padding")
    masks = [[1] * len(row) for row in rows]
    if padding and ragged:
        if pad_id is None:
            raise RequestError("the tokenizer has neither a pad nor an eos token to pad with", param="padding")
        gaps = [longest - len(row) for row in rows]
        if padding_side == "left":
            rows = [[pad_id] * gap + row for gap, row in zip(gaps, rows, strict=True)]
            masks = [[0] * gap + mask for gap, mask in zip(gaps, masks, strict=True)]
        else:
            rows = [row + [pad_id] * gap for gap, row in zip(gaps, rows, strict=True)]
            masks = [mask + [0] * gap for gap, mask in zip(gaps, masks, strict=True)]
    return TokenBatch(_array(rows, longest, arrays), _array(masks, longest, arrays))


def _array(rows: Sequence[list[int]], width: int, arrays: ArrayKind | None) -> Any:
    """Rows as [B, T]; no rows and empty rows keep their two dimensions."""
    if arrays == "pt":
        import torch

        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width)
    if arrays == "np":
        import numpy as np

        return np.array(rows, dtype=np.int64).reshape(len(rows), width)
    return list(rows)
