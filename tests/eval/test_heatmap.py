"""The heat map: texts of the right length with facts at the right depths, read once, counted cell by cell."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.errors import ContextLengthExceeded, DataError, RequestError
from minimax_m1.eval import heatmap
from minimax_m1.eval.heatmap import Heatmap, Opened, Plan, examples, measure, reading_speed, record, save, table
from minimax_m1.eval.suites import Case
from minimax_m1.llm import LLM


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(("tokens", "facts"), [(300, 0), (2000, 0), (2000, 40)])
def test_each_needle_stands_at_its_depth_of_a_text_of_the_length(tokens: int, facts: int) -> None:
    depths = (0.0, 30.0, 50.0, 100.0)
    found = examples(random.Random(1), tokens, depths, facts, words)
    texts = {example.messages[0]["content"].rpartition("\n\n")[0] for example in found}
    assert len(texts) == 1
    [text] = texts
    assert abs(words(found[0].messages[0]["content"]) - tokens) <= 12
    keys = []
    for depth, example in zip(depths, found, strict=True):
        question, reply = example.messages[0]["content"].rpartition("\n\n")[2], example.messages[1]["content"]
        key, value = reply.split(": ")
        assert key in question
        place = text.index(key)
        assert abs(place / len(text) - depth / 100) < 0.06
        assert f"{value}." in text[place : place + 60]
        keys.append(key)
    assert len(set(keys)) == 4


def test_other_facts_of_the_same_form_are_strewn_in() -> None:
    def told(facts: int) -> int:
        text = examples(random.Random(1), 3000, (0.0, 50.0), facts, words)[0].messages[0]["content"]
        return sum(text.count(form) for form in (" code ", " value of ", " number "))

    assert 1 <= told(0) <= 4 and 52 <= told(50) <= 54


def test_no_two_facts_of_a_text_have_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    needle = heatmap.needle
    monkeypatch.setattr(heatmap, "needle", lambda rng, *rest: needle(random.Random(rng.randrange(6)), *rest))
    found = examples(random.Random(0), 1000, (0.0, 40.0, 60.0, 100.0), 1, words)
    assert len({example.messages[1]["content"] for example in found}) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lengths": (1000, 100)}, "lengths must be at least 200, got 100"),
        ({"lengths": ()}, "lengths must be some different numbers"),
        ({"depths": (5, 5)}, "depths must be some different numbers"),
        ({"depths": (50, 120.5)}, "depths must be at least 0 and at most 100, got 120.5"),
        ({"cases": 0}, "cases must be at least 1"),
        ({"facts": -1}, "facts at least 0, got 5 and -1"),
        ({"facts": 100}, "1000 tokens cannot hold 105 facts; take 3150 or more"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Plan(**changed)


def test_a_text_beyond_the_window_is_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"a text of 16,000 tokens .* context window of 16,384 tokens"):
        measure(
            llm, Plan(lengths=(300, 16000)), model="tiny", opened=Opened(), heard=lambda tokens: pytest.fail("it ran")
        )


def test_each_cell_is_counted_and_each_text_is_read_once(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows the needles in the first half of long texts only; the reading is real."""
    cached: list[tuple[int, int]] = []
    grade = heatmap.grade

    def graded(llm: LLM, cases: list[Case], tokenizer: Any) -> Any:
        _, outputs = grade(llm, cases, tokenizer)
        cached.extend((output.cached_tokens, len(output.prompt_token_ids)) for output in outputs)
        return [place < 2 and len(outputs[0].prompt_token_ids) > 500 for place in range(len(cases))], outputs

    monkeypatch.setattr(heatmap, "grade", graded)
    monkeypatch.setattr("minimax_m1.eval.held_out._room", lambda cases, tokenizer: 1)
    plan = Plan(lengths=(800, 300), depths=(0, 40, 100), cases=2)
    heard: list[int] = []
    found = measure(llm, plan, model="tiny", opened=Opened(), heard=heard.append)
    assert found.right == ((2, 0), (2, 0), (0, 0))
    assert cached[0][1] < 500 < cached[-1][1]  # short texts first
    assert len(cached) == 12 and all(length - 40 < known < length for known, length in cached)
    assert plan.tokens == 2200 and abs(sum(heard) - plan.tokens) < 100


def test_the_plan_and_the_seed_decide_the_texts(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def graded(llm: LLM, cases: list[Case], tokenizer: Any) -> Any:
        text, reply = (message["content"] for message in cases[0].example.messages)
        asked.append(f"{reply}\n{text}")
        return [True] * len(cases), []

    monkeypatch.setattr(heatmap, "grade", graded)
    plan = Plan(lengths=(300, 400), depths=(0, 50), cases=2)
    texts = []
    for chosen in (plan, plan, Plan(lengths=(400,), depths=(0, 50), cases=2), Plan(lengths=(400,), cases=1, seed=1)):
        asked.clear()
        measure(llm, chosen, model="tiny", opened=Opened())
        texts.append(list(asked))
    assert texts[0] == texts[1] and len({text.partition("\n")[0] for text in texts[0]}) == 4
    assert texts[2] == texts[0][2:] and texts[3][0] not in texts[0]


def test_the_record_has_what_repeats_it(tmp_path: Path) -> None:
    plan = Plan(lengths=(1000, 8000), depths=(0, 37.5, 100), cases=4, facts=7)
    found = Heatmap(
        plan=plan,
        right=((4, 3), (2, 1), (0, 4)),
        seconds=1.5,
        model="my models/nano",
        opened=Opened(quantization="int8"),
    )
    picture = save(found, tmp_path / "new" / "folder")
    kept = json.loads((picture.parent / "heatmap.json").read_text())
    assert kept == record(found)
    assert kept["right"] == [[4, 3], [2, 1], [0, 4]] and kept["seconds"] == 1.5 and kept["model"] == "my models/nano"
    assert kept["quantization"] == "int8"
    assert kept["command"] == (
        "minimax-m1 eval 'my models/nano' --heatmap --lengths 1000,8000 --depths 0,37.5,100 --cases 4 "
        "--facts 7 --seed 0 --quantization int8"
    )
    assert "quantization" not in record(replace(found, opened=Opened()))["command"]
    assert picture.name == "heatmap.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert table(found).splitlines() == [
        "depth      1,000     8,000",
        "   0%       100%       75%",
        "37.5%        50%       25%",
        " 100%         0%      100%",
    ]


def test_without_matplotlib_the_counts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plan = Plan(lengths=(300,), depths=(0,), cases=1)
    found = Heatmap(plan=plan, right=((1,),), seconds=1.0, model="nano", opened=Opened())
    with pytest.raises(DataError, match=r"drawing needs the extra: pip install 'minimax-m1\[train\]'"):
        save(found, tmp_path)
    assert json.loads((tmp_path / "heatmap.json").read_text())["right"] == [[1]]


def test_the_speed_is_that_of_reading(llm: LLM) -> None:
    assert 100 < reading_speed(llm) < 1e7
