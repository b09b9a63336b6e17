"""Sampling parameters refuse what makes no sense, and name it."""

from __future__ import annotations

from typing import Any

import pytest

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2.0),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("min_tokens", 17),
        ("expert_threshold", 0.0),
        ("expert_threshold", float("nan")),
        ("stop", ""),
        ("stop", ["good", ""]),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


def test_ordinary_values_pass() -> None:
    params = SamplingParams(temperature=0, top_k=-1, stop="end", seed=2**64 - 1, max_tokens=10**9)
    assert params.stop == "end"
