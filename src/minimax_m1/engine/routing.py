"""Which experts read which token: the routing trace of one request.

In: for each run of the model its experts and gate weights, [layers, tokens, top_k], -1 where the
expert threshold dropped one or the layer skipped the token. Out: `report()`, plain numbers a layer, and
where asked the full `routed_experts` array in the wire form of vLLM and SGLang. Numpy only. A step of one token costs
a list's append: what comes is laid aside and summed some hundred tokens at a time.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOGETHER = 512  # tokens laid aside before they are summed


class RoutingTrace:
    """Sums over every token that ran: prompt and output, without the last token, which never runs.

    Memory is `layers x experts` sums, and `layers x top_k x 2` bytes a token with `keep_experts`.
    """

    def __init__(self, *, layers: int, experts: int, keep_experts: bool = False) -> None:
        assert 0 < experts < 2**15, "expert numbers are kept as int16"
        self.tokens = 0
        self._tokens = np.zeros(layers, np.int64)  # that each layer ran; the last may skip what no logit needs
        self._counts = np.zeros((layers, experts), np.int64)
        self._weights = np.zeros((layers, experts), np.float64)
        self._entropy = np.zeros(layers, np.float64)
        self._kept: list[NDArray[np.int16]] | None = [] if keep_experts else None
        self._aside: list[tuple[NDArray[np.integer[Any]], NDArray[np.floating[Any]]]] = []
        self._aside_tokens = 0

    def add(self, experts: NDArray[np.integer[Any]], weights: NDArray[np.floating[Any]]) -> None:
        """Counts some tokens, in order: experts and weights [layers, tokens, top_k]; weights are those applied.

        The arrays are kept for a while: nobody may write to them afterwards.
        """
        assert experts.shape == weights.shape and len(experts) == len(self._counts), (experts.shape, weights.shape)
        self.tokens += experts.shape[1]
        self._aside.append((experts, weights))
        self._aside_tokens += experts.shape[1]
        if self._aside_tokens >= _TOGETHER:
            self._sum()

    def _sum(self) -> None:
        """Adds up what was laid aside."""
        if not self._aside:
            return
        experts, weights = (np.concatenate(arrays, axis=1) for arrays in zip(*self._aside, strict=True))
        self._aside, self._aside_tokens = [], 0
        layers, width = self._counts.shape
        kept = experts >= 0
        self._tokens += kept.any(-1).sum(1)
        # One count over layer * width + expert is one pass; a count a layer would be one call a layer.
        place = (experts + np.arange(layers)[:, None, None] * width)[kept]
        gates = weights[kept].astype(np.float64)
        self._counts += np.bincount(place, minlength=layers * width).reshape(layers, width)
        self._weights += np.bincount(place, weights=gates, minlength=layers * width).reshape(layers, width)
        # Entropy is that of the kept weights as shares of their sum, so any gate scale gives the same number.
        gate = np.where(kept, weights, 0.0).astype(np.float64)
        share = gate / np.maximum(gate.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
        self._entropy -= (share * np.log(np.where(share > 0, share, 1.0))).sum((1, 2))
        if self._kept is not None:
            self._kept.append(experts.astype(np.int16))

    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Tokens sent to each expert [layers, experts]; tokens that each layer ran and the sum of their entropies, in
        nats [layers]. The trace's own arrays: to be read only.
        """
        self._sum()
        return self._counts, self._tokens, self._entropy

    def report(self) -> dict[str, Any]:
        """JSON-able: tokens, experts per token, and for each layer

        `tokens`, those it ran; `tokens_per_expert` [E]; `mean_gate_weight` [E], over the tokens sent there
        (0 where none); `entropy`, the mean over tokens of the entropy of the kept gate weights, in nats.
        """
        self._sum()
        tokens = np.maximum(self._tokens, 1)
        mean = self._weights / np.maximum(self._counts, 1)
        return {
            "tokens": self.tokens,
            "experts_per_token": round(float(self._counts.sum() / tokens.sum()), 6),
            "layers": [
                {
                    "layer": layer,
                    "tokens": int(self._tokens[layer]),
                    "experts_per_token": round(float(counts.sum() / tokens[layer]), 6),
                    "tokens_per_expert": counts.tolist(),
                    "mean_gate_weight": mean[layer].round(6).tolist(),
                    "entropy": round(float(max(self._entropy[layer], 0.0) / tokens[layer]), 6),
                }
                for layer, counts in enumerate(self._counts)
            ],
        }

    def routed_experts(self) -> str:
        """Base64 of an .npy file: int16 [tokens, layers, top_k], -1 where dropped; needs `keep_experts`."""
        assert self._kept is not None, "this trace was not asked to keep the experts"
        self._sum()
        layers = len(self._counts)
        array = np.concatenate([np.empty((layers, 0, 1), np.int16)] if not self._kept else self._kept, axis=1)
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(array.transpose(1, 0, 2)))
        return base64.b64encode(file.getvalue()).decode("ascii")
