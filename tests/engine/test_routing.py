"""The routing trace: its sums, its report and the array on the wire."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.engine.routing import RoutingTrace

# 2 layers, 3 tokens, top_k 2 of 4 experts; the second layer dropped one expert of the last token.
EXPERTS = np.array([[[0, 1], [1, 2], [3, 0]], [[2, 3], [2, 0], [1, -1]]])
WEIGHTS = np.array([[[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]], [[0.6, 0.4], [0.8, 0.2], [1.0, 0.0]]], np.float32)


def read(wire: str) -> np.ndarray:
    return np.load(io.BytesIO(base64.b64decode(wire)), allow_pickle=False)


def entropy(*weights: float) -> float:
    return -sum(w * math.log(w) for w in weights)


def test_the_report_by_hand() -> None:
    trace = RoutingTrace(layers=2, experts=4)
    trace.add(EXPERTS, WEIGHTS)
    report = json.loads(json.dumps(trace.report()))
    assert report["tokens"] == 3
    assert report["experts_per_token"] == pytest.approx(11 / 6, abs=1e-6)
    first, second = report["layers"]
    assert (first["layer"], first["experts_per_token"]) == (0, 2.0)
    assert first["tokens_per_expert"] == [2, 2, 1, 1]
    assert first["mean_gate_weight"] == pytest.approx([0.425, 0.375, 0.5, 0.9], abs=1e-6)
    mean = (entropy(0.75, 0.25) + entropy(0.5, 0.5) + entropy(0.9, 0.1)) / 3
    assert first["entropy"] == pytest.approx(mean, abs=1e-5)
    assert second["tokens_per_expert"] == [1, 1, 2, 1]
    assert second["experts_per_token"] == pytest.approx(5 / 3, abs=1e-6)
    assert second["entropy"] == pytest.approx((entropy(0.6, 0.4) + entropy(0.8, 0.2)) / 3, abs=1e-5)


@given(st.lists(st.integers(0, 3), max_size=3))
def test_any_chunks_give_the_same_trace(cuts: list[int]) -> None:
    whole = RoutingTrace(layers=2, experts=4, keep_experts=True)
    whole.add(EXPERTS, WEIGHTS)
    parts = RoutingTrace(layers=2, experts=4, keep_experts=True)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 3], strict=True):
        parts.add(EXPERTS[:, start:stop], WEIGHTS[:, start:stop])
    assert parts.report() == whole.report()
    assert parts.routed_experts() == whole.routed_experts()


def test_the_wire_array_is_tokens_layers_top_k() -> None:
    trace = RoutingTrace(layers=2, experts=4, keep_experts=True)
    trace.add(EXPERTS, WEIGHTS)
    array = read(trace.routed_experts())
    assert array.shape == (3, 2, 2)
    assert array.dtype == np.int16
    assert np.array_equal(array, EXPERTS.transpose(1, 0, 2))


def test_a_trace_of_nothing_is_still_a_report() -> None:
    trace = RoutingTrace(layers=2, experts=4, keep_experts=True)
    report = trace.report()
    assert report["tokens"] == 0
    assert report["layers"][1]["entropy"] == 0
    assert len(read(trace.routed_experts())) == 0
