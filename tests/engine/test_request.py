"""What a request may ask for: sampling parameters and their parts refuse what makes no sense, and name it."""

from __future__ import annotations

from typing import Any

import pytest

from minimax_m1.engine.request import RepetitionStop, SamplingParams, StructuredOutputsParams
from minimax_m1.errors import RequestError

NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", NAN),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 2.0),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("presence_penalty", NAN),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", NAN),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 100.1),
        ("repetition_penalty", NAN),
        ("logit_bias", {1: 0.0, 2: 100.1}),
        ("logit_bias", {1: -100.1}),
        ("logit_bias", {1: NAN}),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("logprobs", -1),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", 21),
        ("thinking_budget", -1),
        ("expert_threshold", 0.0),
        ("expert_threshold", 1.1),
        ("expert_threshold", NAN),
        ("stop", ""),
        ("stop", ["good", ""]),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0, "top_k": -1, "stop": "end", "max_tokens": 10**9},
        {"n": 128, "temperature": 100, "min_p": 1.0, "top_p": 1e-9},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0, "repetition_penalty": 100.0},
        {"logit_bias": {0: -100.0, 5: 100.0}},
        {"logit_bias": {}},
        {"seed": 2**64 - 1},
        {"seed": -(2**63)},
        {"max_tokens": 0},
        {"min_tokens": 16},
        {"logprobs": 0, "prompt_logprobs": 20},
        {"thinking_budget": 0},
        {"repetition_stop": RepetitionStop(), "structured_outputs": StructuredOutputsParams(regex="a+")},
    ],
)
def test_values_at_the_edge_of_their_range_pass(params: dict[str, Any]) -> None:
    made = SamplingParams(**params)
    assert {name: getattr(made, name) for name in params} == params


def test_the_defaults_change_nothing() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1.0, 1.0, 0, 0.0)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.0, 0.0, 1.0)
    optional = ("logit_bias", "seed", "logprobs", "prompt_logprobs", "thinking_budget", "repetition_stop")
    assert [name for name in optional if getattr(params, name) is not None] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 1),
        ("probability", -0.1),
        ("probability", 1.0),
        ("probability", NAN),
        ("max_period", 0),
        ("max_period", 1501),
    ],
)
def test_a_repetition_stop_names_what_is_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        RepetitionStop(**{field: value})
    assert caught.value.param == f"repetition_stop.{field}"


def test_a_repetition_stop_takes_half_its_window_or_no_period() -> None:
    assert RepetitionStop(window=10, max_period=5).max_period == 5
    assert RepetitionStop(window=2, probability=0.0, max_period=None).max_period is None


@pytest.mark.parametrize(
    "fields", [{"json": {"type": "object"}}, {"json": "{}"}, {"regex": ""}, {"choice": ["a"]}, {"json_object": True}]
)
def test_structured_outputs_take_one_form(fields: dict[str, Any]) -> None:
    StructuredOutputsParams(**fields)


@pytest.mark.parametrize(
    ("fields", "count"), [({}, 0), ({"json_object": False}, 0), ({"regex": "a", "grammar": "b", "json": "{}"}, 3)]
)
def test_structured_outputs_refuse_none_and_several(fields: dict[str, Any], count: int) -> None:
    with pytest.raises(RequestError, match=f"exactly one of .* got {count}") as caught:
        StructuredOutputsParams(**fields)
    assert caught.value.param == "structured_outputs"
