"""`OutputLength`: how long answers may be, in stages (M1 report, section 5: 40K, 48K, ... 80K tokens).

In: the lengths, rising, and of each batch how long answers were and how surprising. Out: the length that holds now.
A stage ends when the perplexity of answers has settled and the longest of them come near the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WINDOW = 5  # batches whose mean perplexity is compared with that of as many before
_SETTLED = 0.02  # of relative change
_NEAR = 0.9  # of the limit, which the 99th percentile must reach


class OutputLength:
    """`tokens` is the limit now."""

    def __init__(self, lengths: Sequence[int]) -> None:
        assert lengths and list(lengths) == sorted(lengths)
        self._lengths, self._stage = tuple(lengths), 0
        self._perplexities: list[float] = []

    @property
    def tokens(self) -> int:
        """Most tokens of an answer."""
        return self._lengths[self._stage]

    def learn(self, p99: float, perplexity: float) -> bool:
        """Takes in a batch: the 99th percentile of its lengths, its perplexity; True where a new stage begins."""
        self._perplexities = [*self._perplexities, perplexity][-2 * _WINDOW :]
        if self._stage + 1 == len(self._lengths) or len(self._perplexities) < 2 * _WINDOW:
            return False
        before, now = (sum(part) / _WINDOW for part in (self._perplexities[:_WINDOW], self._perplexities[_WINDOW:]))
        if not abs(now / before - 1) <= _SETTLED or p99 < _NEAR * self.tokens:  # a mean may be infinite
            return False
        self._stage += 1
        self._perplexities = []
        return True

    def state(self) -> dict[str, Any]:
        """JSON values from which `load` goes on."""
        return {"stage": self._stage, "perplexities": list(self._perplexities)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken, or at the last stage that there is now."""
        self._stage = min(int(state["stage"]), len(self._lengths) - 1)
        self._perplexities = [float(value) for value in state["perplexities"]]
