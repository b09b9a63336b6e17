"""A `key=value` setting of a recipe: its text as a value of the type that the field has now.

In: the key, the text, the field's present value. Out: the value, or a DataError that names the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minimax_m1.errors import DataError


def json_value(key: str, text: str) -> Any:
    """The text as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # Python limits digits and depth, too
        raise DataError(f"the value of {key} is not JSON: {text!r:.200}") from None


def typed_value(key: str, text: str, current: Any) -> Any:
    """The text as JSON of `current`'s type, or as it is where that is text; a number where `current` is None."""
    if isinstance(current, str) and not text.startswith('"'):
        return text
    value = json_value(key, text)
    if isinstance(current, float | None) and type(value) is int:
        value = float(text)  # infinity for what no float can be, which ranges refuse
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    kind = float if current is None else dict if isinstance(current, Mapping) else type(current)
    if type(value) is not kind:
        raise DataError(f"{key} must be of type {kind.__name__}, got {text}")
    return value
