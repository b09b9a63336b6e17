"""The user's files as a source: each line once an epoch, shuffled, found by offset, and named when it goes bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.errors import DataError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.check import check
from minimax_m1.train.document import Document
from minimax_m1.train.jsonl import JsonlSource
from minimax_m1.train.mixture import Mixture


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    first = write(tmp_path / "first.jsonl", [{"text": f"first {n}"} for n in range(7)])
    second = tmp_path / "second.jsonl"
    second.write_text("\n\n" + "\n\n".join(json.dumps({"prompt": "say", "answer": str(n)}) for n in range(5)))
    return [first, second]


def text(tokenizer: MiniMaxM1Tokenizer, document: Document) -> str:
    said = tokenizer.decode([token for token, mask in zip(document.ids, document.said, strict=True) if mask])
    return str(said).removesuffix("<end_of_sentence>")


def test_an_epoch_gives_every_line_once_in_an_order_of_its_own(
    files: list[Path], tokenizer: MiniMaxM1Tokenizer
) -> None:
    source = JsonlSource(files, tokenizer, 0, 0)
    assert source.lines == 12
    epochs = [[text(tokenizer, *source.draw(12 * epoch + n, 1, 100)) for n in range(12)] for epoch in range(4)]
    everything = sorted([f"first {n}" for n in range(7)] + [str(n) for n in range(5)])
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert text(tokenizer, *source.draw(3, 1, 100)) == epochs[0][3]  # an early epoch again, after later ones
    other = JsonlSource(files, tokenizer, 1, 0)
    assert [text(tokenizer, *other.draw(n, 1, 100)) for n in range(12)] != epochs[0]


def test_a_draw_follows_from_its_number_alone(files: list[Path], tokenizer: MiniMaxM1Tokenizer) -> None:
    forth, back = JsonlSource(files, tokenizer, 3, 10_000), JsonlSource(files, tokenizer, 3, 10_000)
    numbers = list(range(0, 60, 5))
    assert [forth.draw(n, 1, 100) for n in numbers] == [back.draw(n, 1, 100) for n in numbers[::-1]][::-1]


def test_documents_say_where_they_come_from(files: list[Path], tokenizer: MiniMaxM1Tokenizer) -> None:
    source = JsonlSource(files, tokenizer, 0, 0)
    places = {text(tokenizer, document): document.place for n in range(12) for document in source.draw(n, 1, 100)}
    assert places["first 4"] == f"{files[0]}:5"
    assert places["3"] == f"{files[1]}:9"  # empty lines are counted and skipped


def test_positions_skip_only_where_they_are_asked_to(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    files = [write(tmp_path / "a.jsonl", [{"text": "a b c d e f " * 5}])]
    plain, skipping = JsonlSource(files, tokenizer, 0, 0), JsonlSource(files, tokenizer, 0, 100_000)
    for n in range(20):
        (document,) = plain.draw(n, 1, 100)
        assert document.positions == list(range(len(document.ids)))
    assert any(skipping.draw(n, 1, 100)[0].positions[-1] > 200 for n in range(20))


def test_bad_lines_may_be_skipped(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{\n{"text": "two"}\n{"prompt": "p"}\n')
    report = check([path], tokenizer, 100)
    source = JsonlSource([path], tokenizer, 0, 0, skip=report.bad)
    assert source.lines == 2
    assert {text(tokenizer, *source.draw(n, 1, 100)) for n in range(2)} == {"one", "two"}
    with pytest.raises(DataError, match="there is no line to learn from"):
        JsonlSource([path], tokenizer, 0, 0, skip={f"{path}:{n}" for n in range(1, 5)})


def test_a_line_that_goes_bad_later_is_named(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "one"}])
    source = JsonlSource([path], tokenizer, 0, 0)
    path.write_text('{"text": "on\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: broken JSON at column 10"):
        source.draw(0, 1, 100)
    path.write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl:1: the line is gone"):
        source.draw(0, 1, 100)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl:1: cannot be read any more \(No such file"):
        source.draw(0, 1, 100)


def test_a_conversation_longer_than_a_phase_allows_is_named(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a b c " * 30, "answer": "yes"}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: the conversation is \d+ tokens long, the window is 20"):
        JsonlSource([path], tokenizer, 0, 0).draw(0, 1, 20)


@pytest.mark.parametrize("missing", ["none.jsonl", "."])
def test_files_that_are_none_are_refused(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer, missing: str) -> None:
    with pytest.raises(DataError, match=r"there is no such file|is a folder"):
        JsonlSource([tmp_path / missing], tokenizer, 0, 0)


def test_a_mixture_of_files_resumes_over_epochs_and_windows(tmp_path: Path, tokenizer: MiniMaxM1Tokenizer) -> None:
    long = write(tmp_path / "long.jsonl", [{"text": f"{n} and so on, " * 60} for n in range(3)])
    short = write(tmp_path / "short.jsonl", [{"prompt": f"{n}", "answer": f"{n}"} for n in range(30)])

    def mixture() -> Mixture:
        names = {"long": long, "short": short}
        sources = [JsonlSource([path], tokenizer, 0, 5000, name=name) for name, path in names.items()]
        return Mixture(sources, {"long": 0.6, "short": 0.4})

    whole, resumed = mixture(), mixture()
    for _ in range(7):
        whole.batch(256, 1, 100)
    resumed.load(json.loads(json.dumps(whole.state())))
    assert [resumed.batch(256, 1, 100) for _ in range(20)] == [whole.batch(256, 1, 100) for _ in range(20)]
    assert whole.state()["draws"]["short"] > 60


def test_files_that_change_between_checkpoint_and_resume_are_named(
    tmp_path: Path, tokenizer: MiniMaxM1Tokenizer
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"{n}"} for n in range(50)])
    mixture = Mixture([JsonlSource([path], tokenizer, 0, 0)], {"jsonl": 1.0})
    mixture.batch(100, 1, 50)
    write(path, [{"text": f"{n}"} for n in range(51)])
    with pytest.raises(
        DataError, match=r"draw \d+ of jsonl was .*a\.jsonl:\d+ at the checkpoint and is .*a\.jsonl:\d+"
    ):
        Mixture([JsonlSource([path], tokenizer, 0, 0)], {"jsonl": 1.0}).load(mixture.state())
