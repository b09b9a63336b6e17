"""Rewards: what answers are worth, by several graders with weights, each of which may fail without ending the run.

In: `Answers`, n prompts with their completions and the columns of their data rows. Out: `Scored`: a total for each,
nan where there is none, the parts by reward, and `Fault`s that say who failed, where and on which answer first.
A grader is any callable; those of a user's file, of the task families and of a judge are made in the files beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minimax_m1.errors import DataError

Text: TypeAlias = str | Sequence[Mapping[str, Any]]  # plain text, or messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """n answers to be graded; every sequence has n entries.

    A prompt is a text or messages; its completion is then a text too, or the messages that the model and its tools
    added. `columns` are what the data rows carry beside the prompt, None where a row lacks it, and what is known of
    the answers: `completion_ids`, `finish_reasons`, `reasoning`, `tool_calls`.
    """

    prompts: Sequence[Text]
    completions: Sequence[Text]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.prompts), len(self.completions), *map(len, self.columns.values())}
        assert len(lengths) == 1, f"prompts, completions and columns differ in length: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.prompts)

    def only(self, index: int) -> Answers:
        """The answer at `index` alone."""
        return Answers(
            prompts=[self.prompts[index]],
            completions=[self.completions[index]],
            columns={name: [values[index]] for name, values in self.columns.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Why an answer got no reward: the kind of error, its message, and "FILE:LINE" where that is known.

    `example` is the answer at fault, where a whole batch was lost to it.
    """

    error: str
    message: str
    place: str | None = None
    example: int | None = None


_MOST = 1e9  # what a reward or a weight may be, so that no sum overflows
Verdict: TypeAlias = float | Flaw | None  # None: this reward does not apply to this answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A grader with its weight. `grade` gives a verdict for each answer, in order.

    `needs` are the columns without which it cannot be called; `place` is where a user may look for it.
    """

    name: str
    grade: Callable[[Answers], Sequence[Verdict]]
    weight: float = 1.0
    needs: frozenset[str] = frozenset()
    place: str | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of failure in one batch: `count` of `answers` answers lost their reward, `example` was the first."""

    reward: str
    error: str
    message: str
    place: str | None
    example: int
    prompt: str
    count: int
    answers: int

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        return (
            f"{self.reward}{where}: {self.error}: {self.message}; {self.count} of {self.answers} answers have no "
            f"reward, first answer {self.example} to {self.prompt!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Rewards of n answers. `total` [n] is the weighted sum of what applies, nan where nothing does or a part failed:
    a sum that lacks a part must not be compared with whole ones. `by_reward` are the parts [n], without weights.
    """

    total: NDArray[np.float64]
    by_reward: Mapping[str, NDArray[np.float64]]
    faults: tuple[Fault, ...]


class RewardSet:
    """Rewards that are summed; a context manager that ends what they started.

    Raises:
        DataError: there is no reward, two share a name, or a weight is no number of at most 1e9 in size.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        if not rewards:
            raise DataError("there is no reward")
        names = [reward.name for reward in rewards]
        for reward in rewards:
            if names.count(reward.name) > 1:
                raise DataError(f"two rewards are called {reward.name!r}")
            if not abs(reward.weight) <= _MOST:
                raise DataError(f"the weight of {reward.name} must be within ±{_MOST:g}, got {reward.weight}")
        self.rewards = tuple(rewards)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the rewards' processes and connections."""
        for reward in self.rewards:
            reward.close()

    def check(self, columns: Collection[str]) -> None:
        """Raises DataError where a reward needs a column that is not among those that the rows carry."""
        for reward in self.rewards:
            for name in sorted(reward.needs - set(columns)):
                there = ", ".join(sorted(columns)) or "none"
                raise DataError(f"{reward.place or reward.name} needs the column {name!r}; the rows have {there:.200}")

    def score(self, answers: Answers) -> Scored:
        """What the answers are worth. Raises nothing for what a reward does; that is in `faults`."""
        total, applies, lost = np.zeros(len(answers)), np.zeros(len(answers), bool), np.zeros(len(answers), bool)
        by_reward: dict[str, NDArray[np.float64]] = {}
        faults: list[Fault] = []
        for reward in self.rewards:
            verdicts = _verdicts(reward, answers)
            values = np.array([value if isinstance(value, float) else math.nan for value in verdicts], np.float64)
            known = ~np.isnan(values)
            total[known] += reward.weight * values[known]
            applies |= known
            lost |= np.array([isinstance(value, Flaw) for value in verdicts], bool)
            by_reward[reward.name] = values
            faults += _faults(reward, answers, verdicts)
        total[lost | ~applies] = math.nan
        return Scored(total=total, by_reward=by_reward, faults=tuple(faults))


def spoken(text: Text) -> str:
    """A text as it is; of messages what the last one of the assistant says, its thought left out, or ""."""
    return text if isinstance(text, str) else str(last_reply(text).get("content") or "")


def last_reply(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last message of the assistant; an empty one where there is none."""
    return next((message for message in reversed(messages) if message.get("role") == "assistant"), {})


def one_line(text: str, most: int = 300) -> str:
    """The text in one line, cut to `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _verdicts(reward: Reward, answers: Answers) -> list[Verdict]:
    """One checked verdict an answer; where the grader failed as a whole, the same flaw for all."""
    try:
        said = list(reward.grade(answers))
    except Exception as error:  # strangers' code: whatever it raises costs this batch and no more
        return [Flaw(error=type(error).__name__, message=one_line(str(error)), place=reward.place)] * len(answers)
    if len(said) != len(answers):
        message = f"gave {len(said)} rewards for {len(answers)} answers"
        return [Flaw(error="ValueError", message=message, place=reward.place)] * len(answers)
    return [_checked(value, reward.place) for value in said]


def _checked(value: Any, place: str | None) -> Verdict:
    if value is None or isinstance(value, Flaw):
        return value
    if not isinstance(value, Real):
        message = f"a reward is a number or None, got {type(value).__name__} {one_line(repr(value), 80)}"
        return Flaw(error="TypeError", message=message, place=place)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _MOST:
        return Flaw(error="ValueError", message=f"a reward must be within ±{_MOST:g}, got {number:g}", place=place)
    return number


def _faults(reward: Reward, answers: Answers, verdicts: Sequence[Verdict]) -> Iterator[Fault]:
    """One fault for each kind of error and place, in the order of the first answers."""
    kinds: dict[tuple[str, str | None], list[int]] = {}
    for index, value in enumerate(verdicts):
        if isinstance(value, Flaw):
            kinds.setdefault((value.error, value.place), []).append(index)
    for indices in kinds.values():
        flaw = verdicts[indices[0]]
        assert isinstance(flaw, Flaw)
        example = indices[0] if flaw.example is None else flaw.example
        prompt = answers.prompts[example]
        asked = prompt if isinstance(prompt, str) else str((prompt[-1] if prompt else {}).get("content") or "")
        yield Fault(
            reward=reward.name,
            error=flaw.error,
            message=flaw.message,
            place=flaw.place,
            example=example,
            prompt=one_line(asked, 80),
            count=len(indices),
            answers=len(answers),
        )
