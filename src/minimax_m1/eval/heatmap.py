"""The heat map: whether a model still finds a fact, by the length of the text and the depth at which the fact stands.

In: an `LLM` and a `Plan` of lengths, depths and cases. Out: a `Heatmap` of right answers, which `save` writes as
`heatmap.json` and `heatmap.png`. A text holds a needle at every depth, each with a key of its own, and perhaps more
facts of the same form; it is read once, and each needle is asked for apart, from what was read.
"""

from __future__ import annotations

import json
import random
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import ContextLengthExceeded, RequestError
from minimax_m1.eval.held_out import grade
from minimax_m1.eval.suites import Case
from minimax_m1.llm import LLM
from minimax_m1.tasks.example import Example, assistant, user
from minimax_m1.tasks.prose import sentence
from minimax_m1.tasks.recall import needle
from minimax_m1.train.curves import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHORTEST = 200  # tokens of a text
_AROUND = 600  # tokens that the chat's frame and the reply may take beside the text
_FACT = 30  # tokens of a long one
_TRIAL = 4096  # tokens read to tell how fast the model reads
_INK = "#333333"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a heat map measures: lengths in tokens, depths in percent (0 first, 100 last), cases a cell.

    `facts` others of the same form are strewn in beside the needles.

    Raises:
        RequestError: a value is out of its range, or given twice.
    """

    lengths: tuple[int, ...] = (1000, 8000, 32000, 128000)
    depths: tuple[float, ...] = (0, 25, 50, 75, 100)
    cases: int = 5
    facts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, least, most in (("lengths", self.lengths, _SHORTEST, None), ("depths", self.depths, 0, 100)):
            if not values or len(set(values)) < len(values):
                raise RequestError(f"{name} must be some different numbers, got {list(values)}", param=name)
            if off := [value for value in values if not value >= least or (most is not None and value > most)]:
                upto = "" if most is None else f" and at most {most}"
                raise RequestError(f"{name} must be at least {least}{upto}, got {off[0]:g}", param=name)
        if self.cases < 1 or self.facts < 0:
            raise RequestError(f"cases must be at least 1 and facts at least 0, got {self.cases} and {self.facts}")
        facts = len(self.depths) + self.facts
        if min(self.lengths) < facts * _FACT:
            raise RequestError(f"{min(self.lengths)} tokens cannot hold {facts} facts; take {facts * _FACT} or more")

    @property
    def tokens(self) -> int:
        """Tokens to read, about."""
        return self.cases * sum(self.lengths)

    def check(self, window: int) -> None:
        """Raises ContextLengthExceeded where the longest text does not fit a context window of so many tokens."""
        if max(self.lengths) + _AROUND > window:
            raise ContextLengthExceeded(
                f"a text of {max(self.lengths):,} tokens with its question does not fit the context window of "
                f"{window:,} tokens"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was asked for when a model was opened, as `LLM` takes it."""

    dtype: str = "auto"
    device: str = "cpu"
    quantization: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """`right[depth][length]` counts right answers out of `plan.cases`; `seconds` are the run's; `model` is its name."""

    plan: Plan
    right: tuple[tuple[int, ...], ...]
    seconds: float
    model: str
    opened: Opened


def examples(
    rng: random.Random, tokens: int, depths: Sequence[float], facts: int, count: Callable[[str], int]
) -> list[Example]:
    """One for each depth: the same text of `tokens`, as `count` measures it, and the question for the fact there."""
    keys: set[str] = set()
    told: list[str] = []
    asked: list[tuple[str, str]] = []  # question and reply
    while len(told) < len(depths) + facts:
        one = needle(rng, 40, 0.0)  # it begins with the fact and ends with the question
        text, _, question = one.messages[0]["content"].rpartition("\n\n")
        reply = one.messages[1]["content"]
        if (key := reply.partition(":")[0]) not in keys:
            keys.add(key)
            told.append(text[: text.index(".") + 1])
            asked.append((question, reply))
    left = tokens - sum(count(" " + line) for line in told) - count("\n\n" + asked[0][0])
    lines: list[str] = []
    while left > 6:  # half a sentence
        lines.append(sentence(rng))
        left -= count(" " + lines[-1])
    for line in told[len(depths) :]:
        lines.insert(rng.randint(0, len(lines)), line)
    size = len(lines)
    for depth, line in sorted(zip(depths, told, strict=False), reverse=True):  # the deepest first: none moves another
        lines.insert(round(depth / 100 * size), line)
    text = " ".join(lines)
    return [
        Example(
            family="recall",
            difficulty=10,
            messages=(user(f"{text}\n\n{question}"), assistant(reply)),
            turns=(1,),
        )
        for question, reply in asked[: len(depths)]
    ]


def reading_speed(llm: LLM) -> float:
    """Tokens a second that the model reads, by a short trial; the first tokens, which may compile, do not count."""
    rng = random.Random(0)
    ids = llm.get_tokenizer().encode(" ".join(sentence(rng) for _ in range(_TRIAL // 4)))  # a sentence has 5 or more
    warm, timed = ids[: _TRIAL // 4], ids[_TRIAL // 4 : _TRIAL]
    _read(llm, warm, lambda tokens: None)
    began = time.monotonic()
    _read(llm, timed, lambda tokens: None)
    return len(timed) / (time.monotonic() - began)


def measure(
    llm: LLM,
    plan: Plan,
    *,
    model: str,
    opened: Opened,
    heard: Callable[[int], None] = lambda tokens: None,
) -> Heatmap:
    """Runs the plan, short texts first; `heard` is told of tokens as they are read, `plan.tokens` in all or nearly so.

    `model` and `opened` say what `llm` is, for the record.

    Raises:
        ContextLengthExceeded: the longest text does not fit the model; nothing has run then.
        RequestError: the engine gave an answer up.
    """
    plan.check(llm.max_model_len)
    tokenizer, began = llm.get_tokenizer(), time.monotonic()
    right = {(depth, length): 0 for depth in plan.depths for length in plan.lengths}
    for length in sorted(plan.lengths):
        rng = random.Random(f"heatmap/{plan.seed}/{length}/{plan.facts}")
        for _ in range(plan.cases):
            texts = examples(rng, length, plan.depths, plan.facts, lambda text: len(tokenizer.encode(text)))
            cases = [Case(example=example, turn=1) for example in texts]
            shared = _shared([case.prompt(tokenizer) for case in cases])
            _read(llm, shared, heard)  # the engine keeps what it has read, so each question is all that is new
            for depth, good in zip(plan.depths, grade(llm, cases, tokenizer)[0], strict=True):
                right[depth, length] += good
    return Heatmap(
        plan=plan,
        right=tuple(tuple(right[depth, length] for length in plan.lengths) for depth in plan.depths),
        seconds=round(time.monotonic() - began, 1),
        model=model,
        opened=opened,
    )


def _shared(prompts: Sequence[list[int]]) -> list[int]:
    """The ids that all prompts begin with."""
    first, last = min(prompts), max(prompts)  # what the extremes share, all share
    return next((first[:at] for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), first)


def _read(llm: LLM, ids: Sequence[int], heard: Callable[[int], None]) -> None:
    before = 0
    for _, event in llm.stream(list(ids), SamplingParams(max_tokens=0)):
        heard(event.prefilled_tokens - before)
        before = event.prefilled_tokens


def table(found: Heatmap) -> str:
    """The shares of right answers as text: a row a depth, a column a length."""
    head = "depth " + "".join(f"{length:>10,}" for length in found.plan.lengths)
    rows = [
        f"{depth:4g}% " + "".join(f"{count / found.plan.cases:>10.0%}" for count in row)
        for depth, row in zip(found.plan.depths, found.right, strict=True)
    ]
    return "\n".join([head, *rows])


def record(found: Heatmap) -> dict[str, Any]:
    """A heat map as plain values: the plan's, `right` by depth and length, and the command that repeats it."""
    plan = found.plan
    command = (
        f"minimax-m1 eval {shlex.quote(found.model)} --heatmap --lengths {_listed(plan.lengths)} "
        f"--depths {_listed(plan.depths)} --cases {plan.cases} --facts {plan.facts} --seed {plan.seed}"
    )
    opened = {field.name: getattr(found.opened, field.name) for field in fields(Opened)}
    for field in fields(Opened):
        if opened[field.name] != field.default:
            command += f" --{field.name} {shlex.quote(opened[field.name])}"
    return {
        "model": found.model,
        **opened,
        "command": command,
        "lengths": list(plan.lengths),
        "depths": list(plan.depths),
        "cases": plan.cases,
        "facts": plan.facts,
        "seed": plan.seed,
        "right": [list(row) for row in found.right],
        "seconds": found.seconds,
    }


def save(found: Heatmap, folder: Path) -> Path:
    """Writes `heatmap.json` and `heatmap.png` into the folder, which is made if need be; gives the picture's path.

    Raises:
        DataError: matplotlib is not there; the JSON is written then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "heatmap.json").write_text(json.dumps(record(found), indent=2) + "\n", "utf-8")
    picture = folder / "heatmap.png"
    _chart(found).savefig(picture)
    return picture


def _chart(found: Heatmap) -> Figure:
    """Shares as shades of one colour, which every eye tells apart, and as numbers."""
    plan = found.plan
    chart = figure(max(4.0, 1.6 + len(plan.lengths)), 1.5 + 0.45 * len(plan.depths))
    axes = chart.add_subplot()
    shares = [[count / plan.cases for count in row] for row in found.right]
    axes.pcolormesh(shares, cmap="Blues", vmin=-0.1, vmax=1.1, edgecolors="white", linewidth=1.5)
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            colour = "white" if share > 0.6 else _INK
            axes.text(x + 0.5, y + 0.5, f"{share:.0%}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks([x + 0.5 for x in range(len(plan.lengths))], [f"{length:,}" for length in plan.lengths])
    axes.set_yticks([y + 0.5 for y in range(len(plan.depths))], [f"{depth:g}%" for depth in plan.depths])
    axes.invert_yaxis()
    axes.set_xlabel("length of the text (tokens)", fontsize=8, color=_INK)
    axes.set_ylabel("depth of the fact", fontsize=8, color=_INK)
    among = f" among {plan.facts} others" if plan.facts else ""
    said = f"facts found{among}, {plan.cases} texts a length"
    axes.set_title(f"{Path(found.model).name}: {said}", fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return chart


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.10g}" for value in values)
