"""Settings as text become values of the field's type, and what does not is refused by its key."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import DataError
from minimax_m1.train.setting import json_value, typed_value


@pytest.mark.parametrize(
    "text, current, value",
    [
        ("3", 1, 3),
        ("-3", 1, -3),
        ("0.5", 1.0, 0.5),
        ("2", 1.0, 2.0),
        ("true", False, True),
        ("runs/nano", "", "runs/nano"),
        ("", "nano", ""),
        ('"a b"', "nano", "a b"),
        ("a=b", "nano", "a=b"),
        ("12", "nano", "12"),
        ("[1, 2]", (0,), (1, 2)),
        ('["a.py"]', (), ("a.py",)),
        ('{"data": 1}', {"addition": 1.0}, {"data": 1}),
        ("6", None, 6.0),
        ("1" * 400, 1.0, math.inf),
        ("0.25", None, 0.25),
    ],
)
def test_a_text_takes_the_type_that_the_field_has(text: str, current: Any, value: Any) -> None:
    found = typed_value("key", text, current)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, current, sentence",
    [
        ("2.5", 1, "key must be of type int, got 2.5"),
        ("true", 1, "key must be of type int, got true"),
        ("1", True, "key must be of type bool, got 1"),
        ("true", 1.0, "key must be of type float, got true"),
        ("true", None, "key must be of type float, got true"),
        ("null", None, "key must be of type float, got null"),
        ("null", 1.0, "key must be of type float, got null"),
        ('"5"', None, 'key must be of type float, got "5"'),
        ("3", (1,), "key must be of type tuple, got 3"),
        ("[1]", {"a": 1}, "key must be of type dict, got [1]"),
        ("five", 1, "the value of key is not JSON: 'five'"),
        ("", 1, "the value of key is not JSON: ''"),
        ('"nano', "nano", "the value of key is not JSON: '\"nano'"),
        ("[" * 100_000, (1,), "the value of key is not JSON"),
        ("1" * 5000, 1, "the value of key is not JSON"),
    ],
)
def test_another_type_is_refused_by_the_key(text: str, current: Any, sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        typed_value("key", text, current)
    assert sentence in str(refusal.value)


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())


@given(text=st.text() | values.map(str), current=values)
def test_any_text_is_a_value_of_the_type_or_a_refusal(text: str, current: Any) -> None:
    try:
        value = typed_value("key", text, current)
    except DataError as error:
        assert "key" in str(error)
    else:
        assert type(value) is (float if current is None else type(current))


def test_json_may_say_infinity_which_recipes_check_themselves() -> None:
    assert json_value("key", "Infinity") == math.inf
