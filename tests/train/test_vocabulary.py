"""The vocabulary: every file of the user's has a say, however long its lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train import vocabulary
from minimax_m1.train.recipe import DATA, Recipe
from minimax_m1.train.vocabulary import build_tokenizer


def on(files: list[Path], plan: Recipe) -> Recipe:
    return replace(plan, shares={DATA: 1.0}, data=tuple(map(str, files)))


def test_each_file_counts_up_to_its_share_of_characters(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_CHARACTERS", 4000)
    words = ("zebra", "quilt")
    files = [tmp_path / f"{word}.jsonl" for word in words]
    files[0].write_text(json.dumps({"text": "zebra " * 5000}))  # one text is more than all that is read
    files[1].write_text("{\n" + (json.dumps({"text": "quilt " * 30}) + "\n") * 100)
    assert [len("".join(vocabulary._told(file, 2000))) for file in files] == [2000, 2000]
    learned = build_tokenizer(on(files, tiny_recipe))
    assert all(len(learned.encode(word)) == 1 for word in words)


def test_a_missing_file_is_named(tmp_path: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such file"):
        build_tokenizer(on([tmp_path / "none.jsonl"], tiny_recipe))
