"""Calls fit their schema, their values stand in the request, results are repeated faithfully."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.tasks import tools
from minimax_m1.tasks.example import Example

TYPES = {"string": str, "integer": int, "boolean": bool, "number": float}


def samples(count: int, difficulty: int = 6) -> list[Example]:
    rng = random.Random(count)
    return [tools.sample(rng, difficulty) for _ in range(count)]


def calls_of(example: Example) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = example.messages[example.turns[0]].get("tool_calls", [])
    return found


@given(seed=st.integers(0, 2**32), difficulty=st.integers(1, 10))
def test_calls_fit_the_schema_and_the_request(seed: int, difficulty: int) -> None:
    example = tools.sample(random.Random(seed), difficulty)
    schemas = {tool["name"]: tool["parameters"] for tool in example.tools}
    assert 1 <= len(schemas) == len(example.tools) <= 4
    assert len({tool["description"] for tool in example.tools}) == len(example.tools)
    request = example.messages[example.turns[0] - 1]["content"]
    rest = request
    for made in calls_of(example):
        schema, arguments = schemas[made["function"]["name"]], made["function"]["arguments"]
        assert set(arguments) == set(schema["required"]) == set(schema["properties"])
        for name, value in arguments.items():
            assert type(value) is TYPES[schema["properties"][name]["type"]]
            written = ["true", "yes"] if value is True else ["false", "no"] if value is False else [str(value)]
            places = [found.end() for text in written if (found := re.search(rf"(?<!\w){re.escape(text)}(?!\w)", rest))]
            assert places, (request, name, value)
            if " " in str(value) and value not in tools.TWO_WORD_CITIES:
                assert f'"{value}"' in request
            if name + " " in rest or name + "=" in rest:
                rest = rest[min(places) :]  # arguments come in the order of the request


def test_results_are_repeated() -> None:
    kinds: Counter[str] = Counter()
    for example in samples(600):
        if len(example.turns) < 2:
            continue
        turn = example.turns[1]
        result, said = example.messages[turn - 1], example.messages[turn]["content"]
        assert result["role"] == "tool" and result["tool_call_id"] == calls_of(example)[0]["id"]
        assert result["name"] == calls_of(example)[0]["function"]["name"]
        if not result["content"].startswith("{"):
            kinds["plain"] += 1
            assert said == f"The result is {result['content']}."
        elif "error" in (told := json.loads(result["content"])):
            kinds["error"] += 1
            assert said == f"The tool failed: {told['error']}."
        else:
            kinds["json"] += 1
            assert said == f"The result is {told['result']}."
    assert min(kinds[kind] for kind in ("plain", "error", "json")) > 10
    assert 100 < sum(kinds.values()) < 200


def test_every_kind_of_request_occurs() -> None:
    examples = samples(3000)
    counts = Counter(len(calls_of(example)) for example in examples)
    assert 0.06 < counts[0] / 3000 < 0.1  # no tool fits
    assert 0.08 < counts[2] / 3000 < 0.12
    assert all(example.messages[example.turns[0]]["content"] for example in examples if not calls_of(example))
    by_description = sum(
        not any(tool["name"] in message["content"] for tool in example.tools)
        for example in examples
        for message in [example.messages[example.turns[0] - 1]]
        if calls_of(example)
    )
    assert by_description > 300
    names = {made["function"]["name"] for example in examples for made in calls_of(example)}
    assert len(names) > 2000  # nothing to learn by heart
