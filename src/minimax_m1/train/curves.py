"""The curves of a run: what its log says, thinned to what an eye can see.

In: a run's folder with `metrics.jsonl`, one JSON object a line; any numbers in it are drawn. Out, in the same folder:
`curves.json` (columns of at most 500 points) and `curves.png` (a small chart for each figure, over tokens).
matplotlib comes with the extra `train` and is imported only to draw; nothing opens a window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimax_m1.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = dict[str, list[float | None]]

_POINTS = 500
_SMOOTH = 12  # most points on each side of a smoothed one
_ACROSS, _MANY = 3, 12  # charts in a row, or one more where there are many
_CLOCKS = ("step", "tokens", "batch")  # what others are drawn over, or could be, and never themselves

_EXACT = ("learning_rate", "memory_mb", "seconds")  # no noise to see through

# Title, unit, scale. What is not named here is drawn under its own name.
_KNOWN: Mapping[str, tuple[str, str, str]] = {
    "reward": ("Reward of sampled answers", "", "linear"),
    "held_out_reward": ("Reward on held-out prompts", "", "linear"),
    "pass_rate": ("Answers that passed", "%", "percent"),
    "difficulty": ("Difficulty", "1 to 10", "linear"),
    "length": ("Length of an answer", "tokens", "linear"),
    "length_p99": ("Length of an answer, 99th percentile", "tokens", "linear"),
    "entropy": ("Entropy of the policy", "nats a token", "linear"),
    "agreement": ("Trainer and sampler, Pearson's r", "", "linear"),
    "clip_share": ("Tokens whose weight was clipped", "%", "share"),
    "weight_ess": ("Effective sample size of the weights", "%", "percent"),
    "weight_max": ("Largest weight of a token", "", "linear"),
    "policy_loss": ("Policy loss", "", "linear"),
    "groups_kept": ("Groups that teach something, of a batch", "", "linear"),
    "loss": ("Loss, weighted over all tokens", "nats a token", "log"),
    "answer_loss": ("Loss on what is learned in full", "nats a token", "log"),
    "answer_accuracy": ("Next token right, where learned in full", "%", "percent"),
    "balance_loss": ("Balance of the experts, lower is more even", "", "linear"),
    "grad_norm": ("Norm of the gradient", "", "log"),
    "learning_rate": ("Learning rate", "", "linear"),
    "expert_load_max": ("Busiest expert's tokens, worst layer", "times the mean", "linear"),
    "router_entropy": ("Entropy of the router", "nats", "linear"),
    "tokens_per_second": ("Speed", "tokens/s", "linear"),
    "memory_mb": ("Memory", "MB", "linear"),
    "seconds": ("Time", "s", "linear"),
}
# Okabe and Ito's colours that stand out on white; they stay apart for every kind of colour blindness.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_INK, _GREY, _GRID = "#333333", "#888888", "#E6E6E6"


def draw(folder: Path) -> Path:
    """Writes `curves.json` and `curves.png` into the run's folder; gives the path of the picture.

    Raises:
        DataError: the log is missing or without figures; or matplotlib is not there (the JSON is written then).
    """
    columns = thinned(read(folder / "metrics.jsonl"), _POINTS)
    text = json.dumps({"run": folder.resolve().name, **columns}, allow_nan=False)
    (folder / "curves.json").write_text(text + "\n", "utf-8")
    picture = folder / "curves.png"
    _chart(columns, folder.resolve().name).savefig(picture)
    return picture


def read(log: Path) -> list[dict[str, float]]:
    """The numbers of each line that has some; a broken one is left out, for a kill may cut a line short.

    Raises DataError: no such file, or no figures in it.
    """
    if not log.is_file():
        raise DataError(f"no log of a run at {log}")
    found: list[dict[str, float]] = []
    for line in log.read_bytes().splitlines():
        try:
            figures = json.loads(line)
        except ValueError:
            continue
        told = figures.items() if isinstance(figures, dict) else ()
        if numbers := {name: float(value) for name, value in told if _is_number(value)}:
            found.append(numbers)
    if not found:
        raise DataError(f"{log} has no figures yet")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def thinned(lines: Sequence[Mapping[str, float]], most: int) -> Columns:
    """Columns of at most `most` points: each the mean over a stretch of lines, of steps and tokens its last.

    None stands where a figure is missing or not finite all along the stretch. Runs without steps count lines.
    """
    names = list(dict.fromkeys(name for line in lines for name in line))
    stretches = [
        lines[len(lines) * at // most : len(lines) * (at + 1) // most] if len(lines) > most else lines[at : at + 1]
        for at in range(min(most, len(lines)))
    ]
    columns: Columns = {name: [_point(name, stretch) for stretch in stretches] for name in names}
    if not any(clock in columns for clock in _CLOCKS[:2]):
        columns = {"step": [float(at + 1) for at in range(len(stretches))], **columns}
    return columns


def _point(name: str, stretch: Sequence[Mapping[str, float]]) -> float | None:
    values = [line[name] for line in stretch if name in line and math.isfinite(line[name])]
    if not values:
        return None
    return values[-1] if name in _CLOCKS else float(f"{sum(values) / len(values):.6g}")


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that saves itself as PNG; no window, no global state.

    Raises:
        DataError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("drawing needs the extra: pip install 'minimax-m1[train]'") from None
    return Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")


def _chart(columns: Columns, title: str) -> Figure:
    """A small chart for each figure over tokens, or over steps where the log has no tokens.

    What a long log says only once is no curve.
    """
    clock = "tokens" if "tokens" in columns else "step"
    least = min(2, len(columns[clock]))
    told = [name for name, column in columns.items() if sum(value is not None for value in column) >= least]
    panels = list(dict.fromkeys(name.partition("/")[0] for name in told))
    order = [name for name in _KNOWN if name in panels]
    order += sorted(name for name in panels if name not in _KNOWN and name not in _CLOCKS)
    across = _ACROSS + (len(order) > _MANY)
    rows = max(1, -(-len(order) // across))
    chart = figure(4.2 * min(across, max(1, len(order))), 2.7 * rows + 0.3)
    chart.suptitle(title, fontsize=11, color=_INK)
    scale, unit = _unit(max((value for value in columns[clock] if value is not None), default=1.0))
    for place, name in enumerate(order):
        axes = chart.add_subplot(rows, min(across, len(order)), place + 1)
        for number, line in enumerate(each for each in told if each.partition("/")[0] == name):
            pairs = zip(columns[clock], columns[line], strict=True)
            points = [(x / scale, y) for x, y in pairs if x is not None and y is not None]
            label = line.partition("/")[2]
            _panel(axes, name, points, _COLOURS[(number if label else place) % len(_COLOURS)], label)
        axes.set_xlabel(clock + unit, fontsize=8, color=_INK)
    return chart


def _unit(largest: float) -> tuple[float, str]:
    """What a clock is divided by on its axis, and how the axis says so."""
    for scale, word in ((1e9, " (billions)"), (1e6, " (millions)"), (1e4, " (thousands)")):
        if largest >= scale:
            return (1e3 if scale == 1e4 else scale), word
    return 1.0, ""


def _panel(axes: Axes, name: str, points: Sequence[tuple[float, float]], colour: str, label: str) -> None:
    """One line of a figure: its points pale, and their running mean over them; with a label where it has others."""
    title, unit, scale = _KNOWN.get(name, (name.replace("_", " "), "", "linear"))
    times = 100.0 if scale in ("percent", "share") else 1.0
    across, up = [x for x, _ in points], [y * times for _, y in points]
    single = "o" if len(up) < 2 else ""
    smooth = name in _EXACT or len(up) >= 40
    pale = 0.35 if smooth else 1.0
    axes.plot(across, up, linewidth=0.6, color=colour, alpha=pale, marker=single, markersize=3)
    if smooth:
        axes.plot(across, up if name in _EXACT else _smooth(up), linewidth=1.2, color=colour)
    axes.lines[-1].set_label(label)
    if label:
        axes.legend(fontsize=5.5, frameon=False, labelcolor=_INK)
    if scale == "log" and min(up, default=0) > 0 and max(up) > 3 * min(up):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_log_tick)
        axes.yaxis.set_minor_formatter(_log_tick)
    elif scale == "percent":
        axes.set_ylim(0, 102)
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.set_ylabel(unit, fontsize=8, color=_INK)
    plain(axes)


def plain(axes: Axes) -> None:
    """The house's look: a light grid behind, no box, small grey ticks."""
    axes.grid(True, linewidth=0.6, color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(which="both", labelsize=7.5, colors=_INK, color=_GREY, width=0.6, length=2.5)


def _log_tick(value: float, place: float) -> str:
    """The label of a tick on a logarithmic axis: 1, 2 and 5 of each power of ten have one."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of each point's neighbours: as many on either side while there are, for a run begins steeply."""
    most, smooth = min(_SMOOTH, len(values) // 20), []
    for at in range(len(values)):
        reach = min(most, at)
        near = values[at - reach : at + reach + 1]
        smooth.append(sum(near) / len(near))
    return smooth
