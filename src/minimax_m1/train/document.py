"""`Document`: one isolated text of a run as ids, with what the loss counts and the positions of softmax layers.

In: ids and masks from a source. Out: the record that the mixture deals out and `pack` packs, and the positions that
skip ahead so that short texts teach long distances.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One training text; the three lists are of one length, at least 1.

    `said` is what the field calls the loss mask: 1 for each token that the loss counts in full, the assistant's or all
    of a plain text. `place` says where it came from, for messages: "chats.jsonl:12" or "recall/83".
    """

    ids: list[int]
    said: list[int]
    positions: list[int]
    place: str


def skipped_positions(length: int, max_position: int, rng: random.Random) -> list[int]:
    """Positions that run on within 2 to 4 pieces and jump ahead between them (PoSE, arXiv 2309.10400).

    The last position is log-uniform up to `max_position`, so softmax layers meet every distance; lightning layers
    read no positions. One text in four keeps plain positions, and with `max_position` 0 every one does.
    """
    last = int(length * (max(max_position, length) / length) ** rng.random())
    if length < 4 or rng.random() < 0.25 or last <= length:
        return list(range(length))
    pieces = rng.randint(2, 4)
    cuts = sorted(rng.sample(range(1, length), pieces - 1))
    gaps = sorted(rng.randint(0, last - length) for _ in cuts)  # total jump before each later piece
    positions: list[int] = []
    shift = start = 0
    for cut, gap in zip([*cuts, length], [*gaps, 0], strict=True):
        positions.extend(range(start + shift, cut + shift))
        start, shift = cut, gap
    return positions
