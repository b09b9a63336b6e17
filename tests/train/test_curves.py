"""Curves: what the log says, thinned without a lie, and a picture of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.curves import _chart, draw, figure, read, thinned


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    log = folder / "metrics.jsonl"
    log.write_text("".join((line if isinstance(line, str) else json.dumps(line) + "\n") for line in lines))
    return log


def line(step: int, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": step * 4000, "loss": 6 / step, "answer_accuracy": step / 2000, **more}


def test_a_run_is_drawn_and_its_points_are_kept(tmp_path: Path) -> None:
    write(tmp_path, *(line(step, learning_rate=1e-3, told="words", good=True) for step in range(1, 1801)))
    picture = draw(tmp_path)
    assert picture == tmp_path / "curves.png" and picture.read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "curves.json").read_text())
    assert kept["run"] == tmp_path.name
    assert set(kept) == {"run", "step", "tokens", "loss", "answer_accuracy", "learning_rate"}
    assert all(len(column) == 500 for name, column in kept.items() if name != "run")
    assert kept["step"][-1] == 1800 and kept["tokens"][-1] == 1800 * 4000
    assert kept["learning_rate"] == [1e-3] * 500
    assert sum(kept["answer_accuracy"]) / 500 == pytest.approx(1801 / 4000, rel=1e-3)


def test_each_point_is_the_mean_of_its_stretch_and_each_line_is_in_one() -> None:
    lines = [{"step": float(step), "loss": float(step)} for step in range(1, 11)]
    assert thinned(lines, 5) == {"step": [2, 4, 6, 8, 10], "loss": [1.5, 3.5, 5.5, 7.5, 9.5]}
    assert thinned(lines, 4) == {"step": [2, 5, 7, 10], "loss": [1.5, 4, 6.5, 9]}
    assert thinned(lines, 10) == thinned(lines, 500) == {"step": [*range(1, 11)], "loss": [*range(1, 11)]}


def test_what_is_missing_or_not_finite_leaves_a_gap() -> None:
    lines = [{"step": 1.0, "loss": math.nan}, {"step": 2.0, "loss": 4.0, "late": 1.0}, {"step": 3.0, "loss": math.inf}]
    assert thinned(lines, 9) == {"step": [1, 2, 3], "loss": [None, 4, None], "late": [None, 1, None]}
    assert thinned(lines, 1) == {"step": [3], "loss": [4], "late": [1]}
    assert thinned([{"loss": 5.0}, {"loss": 4.0}], 9) == {"step": [1, 2], "loss": [5, 4]}


def test_broken_lines_are_left_out(tmp_path: Path) -> None:
    log = write(tmp_path, line(10), '{"step": 20, "lo\n', "[2]\n", "\n", line(30), '{"step": 40, "lo')
    log.write_bytes(b"\xff\n" + log.read_bytes())
    assert [each["step"] for each in read(log)] == [10, 30]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no figures yet"),
        ("[2]\n\xff\n{", "has no figures yet"),
        ('{"told": "words"}\n', "has no figures yet"),
        (None, "no log of a run at"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text, "latin-1")
    with pytest.raises(DataError, match=said):
        draw(tmp_path)


def test_each_figure_has_a_chart_with_a_title_units_and_a_clock() -> None:
    known = {"loss": 2.0, "answer_accuracy": 0.5, "tokens_per_second": 900.0, "own_thing": 3.0}
    lines = [
        {"step": float(n), "tokens": 1e6 * n, **{name: value * n for name, value in known.items()}} for n in (1, 2)
    ]
    axes = _chart(thinned([*lines[:1], {**lines[1], "told_once": 1.0}], 9), "run").get_axes()
    assert [(each.get_title("left"), each.get_ylabel()) for each in axes] == [
        ("Loss, weighted over all tokens", "nats a token"),
        ("Next token right, where learned in full", "%"),
        ("Speed", "tokens/s"),
        ("own thing", ""),
    ]
    assert {each.get_xlabel() for each in axes} == {"tokens (millions)"}
    assert list(axes[0].lines[0].get_xdata()) == [1, 2]
    assert list(axes[1].lines[0].get_ydata()) == [50, 100]
    assert _chart({"step": [1.0], "loss": [2.0]}, "run").get_axes()[0].get_xlabel() == "step"


def test_a_smooth_line_runs_through_the_middle_of_a_noisy_one() -> None:
    lines = [{"step": float(n), "loss": 4.0 + (-1) ** n, "learning_rate": float(n % 2)} for n in range(1, 201)]
    loss, rate = _chart(thinned(lines, 500), "run").get_axes()
    raw, smooth = (list(drawn.get_ydata()) for drawn in loss.lines)
    assert raw == [line["loss"] for line in lines] and smooth[0] == raw[0]
    assert all(abs(value - 4) < 0.15 for value in smooth[10:]) and len(smooth) == 200
    assert [list(drawn.get_ydata()) for drawn in rate.lines] == [[line["learning_rate"] for line in lines]] * 2


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    lines = [{"step": float(n), "loss": 6.0 / n} for n in range(1, 101)]
    [axes] = _chart(thinned(lines, 500), "run").get_axes()
    assert axes.get_yscale() == "log"
    ticks = [0.05, 0.1, 0.3, 2.0, 7.0]
    assert [axes.yaxis.get_major_formatter()(tick, 0) for tick in ticks] == ["0.05", "0.1", "", "2", ""]


@pytest.mark.parametrize("columns", [{"step": [1.0]}, {"step": [1.0], "loss": [None]}, {"tokens": [None], "x": [1.0]}])
def test_a_log_with_hardly_anything_is_drawn_all_the_same(columns: Any, tmp_path: Path) -> None:
    _chart(columns, "run").savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 500


def test_without_matplotlib_the_points_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, line(1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match=r"drawing needs the extra: pip install 'minimax-m1\[train\]'"):
        draw(tmp_path)
    assert json.loads((tmp_path / "curves.json").read_text())["loss"] == [6]


def test_drawing_opens_no_window_and_importing_draws_nothing() -> None:
    figure(1, 1)
    code = (
        "import sys; from minimax_m1.train import curves; assert 'matplotlib' not in sys.modules; "
        "curves.figure(1, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
