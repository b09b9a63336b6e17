"""`Curriculum`: which prompt comes next: sources in shares that move over the run, at the edge of what is known.

In: sources, shares, and after each group of answers the part of them that passed. Out: prompts, and the whole position
as a few counts and rates (`state`), so that a run resumes to the prompt.

The M1 report keeps prompts with 0 < pass rate < 0.9 (section 4.1), because a group of equal rewards teaches nothing.
Here this holds for each difficulty of a source that has some, and for each row of one that has none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from minimax_m1.errors import DataError
from minimax_m1.train.rl.prompt import Prompt, PromptSource

_MEASURED_AGAIN = 0.1  # of draws, for what is outside the filter: a level that the model forgets, or has grown up to,
#                        is found after some ten draws a level, while nine prompts in ten still teach
_HARD = 0.02  # a pass rate that counts as 0: in fewer than one group of eight in six, anything passes
_GOOD = 0.5  # a level is known when a coin toss of answers passes: there a group varies most, the next may begin
_AHEAD = 2  # levels beyond the highest known one: the next is nearly sure to be useful, one more finds a quick learner
_STEP = 0.7  # of a pass rate that is kept a level further up, as a guess for levels that nobody measured; by it a
#              level above one that is passed over as easy (0.9) is at 0.63, where much is learned, and gets its turn
_LEVEL_MEMORY = 0.9  # what a group's weight is worth a group later: some ten groups, a few steps of a run
_ROW_MEMORY = 0.5  # visits of a row are an epoch apart, and the model is another by then
_FIGURE_MEMORY = 0.98  # some fifty prompts, a few steps' batches, so that curves are smooth
_TRIES = 32  # rows looked at for one draw; with one row in ten inside the filter, 97% of draws find one

Mean = list[float]  # the weight of what was measured, and its sum: plain JSON


class Curriculum:
    """Chooses a source by its share, a level or row by how much its answers still vary.

    Raises:
        DataError: shares do not fit the sources or do not sum to 1, `easy` is no rate, or a source has no level of at
            most `max_difficulty`.
    """

    def __init__(
        self,
        sources: Sequence[PromptSource],
        shares: Mapping[str, float],
        *,
        final_shares: Mapping[str, float] | None = None,
        seed: int,
        max_difficulty: int = 10,
        easy: float = 0.9,
        adaptive: bool = True,
    ) -> None:
        """`shares` of prompts by source at the run's start, `final_shares`, where there are any, at its end.

        A source that is named in one of them alone has 0 in the other. `easy`: the pass rate from which on nothing is
        learned any more; with `adaptive` False every level and row is as likely as any other, whatever passes.
        """
        self._sources = {source.name: source for source in sources}
        assert len(self._sources) == len(sources), "two sources share a name"
        final_shares = final_shares or shares
        if (named := {**shares, **final_shares}).keys() != self._sources.keys():
            raise DataError(f"shares are of {_names(named)}, sources are {_names(self._sources)}")
        for told in (shares, final_shares):
            if not abs(sum(told.values()) - 1) <= 1e-6 or min(told.values()) < 0:
                raise DataError(f"shares must be 0 or more and sum to 1, got {dict(told)}")
        self._shares = {name: (shares.get(name, 0.0), final_shares.get(name, 0.0)) for name in sorted(named)}
        if not _HARD < easy <= 1:
            raise DataError(f"easy must be a pass rate of more than {_HARD} and at most 1, got {easy}")
        self._levels: dict[str, list[int]] = {}
        for name, source in self._sources.items():
            self._levels[name] = [level for level in source.levels if level <= max_difficulty]
            if source.levels and not self._levels[name]:
                raise DataError(
                    f"{name} has no difficulty of at most {max_difficulty}; it begins at {source.levels[0]}"
                )
        self._seed, self._easy, self._adaptive = seed, easy, adaptive
        self._count = 0  # of draws
        self._draws = dict.fromkeys(self._sources, 0)  # the next index of each source
        self._latest: dict[str, tuple[int, int, str]] = {}  # index, level and place of each source's last prompt
        self._rates: dict[str, dict[str, Mean]] = {name: {} for name in self._sources}  # by level or place
        self._figures: dict[str, Mean] = {}

    # Prompts ---------------------------------------------------------------------------------------

    def draw(self, progress: float) -> Prompt:
        """The next prompt; `progress` is the part of the run that is done, 0 to 1. Raises DataError as sources do."""
        assert 0 <= progress <= 1, f"progress is a part of the run, got {progress}"
        rng = random.Random(f"{self._seed}/curriculum/{self._count}")
        self._count += 1
        shares = [(1 - progress) * first + progress * last for first, last in self._shares.values()]
        name = rng.choices(list(self._shares), shares)[0]
        if not self._levels[name]:
            return self._row(name, rng)
        level = self._level(name, rng)
        self._note(f"difficulty/{name}", level)
        return self._drawn(name, level)

    def learn(self, prompt: Prompt, passed: float) -> None:
        """Takes in which part of the answers to a prompt passed, 0 to 1.

        A level starts from its guess, which counts as one group: eight answers that fail are no reason to give it up.
        """
        assert 0 <= passed <= 1, f"the part that passed is between 0 and 1, got {passed}"
        rates, levels = self._rates[prompt.source], self._levels[prompt.source]
        if levels:
            guess = self._guesses(prompt.source)[levels.index(prompt.level)]
            _add(rates.setdefault(str(prompt.level), [1.0, guess]), passed, _LEVEL_MEMORY)
        else:
            _add(rates.setdefault(prompt.place, [0.0, 0.0]), passed, _ROW_MEMORY)
        self._note(f"pass_rate/{prompt.source}", passed)

    def figures(self) -> dict[str, float]:
        """For the log, means of about the last fifty: "difficulty/NAME" of prompts, "pass_rate/NAME" of groups."""
        return {name: _mean(mean) for name, mean in sorted(self._figures.items())}

    def _level(self, name: str, rng: random.Random) -> int:
        """A level within reach, likelier where p(1 - p) is large, the variance of a reward that is 0 or 1."""
        levels, rates = self._levels[name], self._guesses(name)
        if not self._adaptive:
            return rng.choice(levels)
        known = [at for at, level in enumerate(levels) if str(level) in self._rates[name] and rates[at] >= _GOOD]
        reach = range(min(max(known, default=-1) + _AHEAD + 1, len(levels)))
        useful = [at for at in reach if self._useful(rates[at])]
        others = [at for at in reach if not self._useful(rates[at])]
        again = rng.random() < _MEASURED_AGAIN
        if not useful or (others and again):
            return levels[rng.choice(others)]
        return levels[rng.choices(useful, [rates[at] * (1 - rates[at]) for at in useful])[0]]

    def _guesses(self, name: str) -> list[float]:
        """A pass rate for each level: measured, or the nearest measured one's moved by `_STEP` for each level between.

        Where two are equally near, the lower one tells, and where none is measured, all are even.
        """
        levels, rates = self._levels[name], self._rates[name]
        measured = [at for at, level in enumerate(levels) if str(level) in rates]
        guesses = []
        for at in range(len(levels)):
            near = min(measured, key=lambda other: abs(other - at), default=None)
            rate = 0.5 if near is None else _mean(rates[str(levels[near])])
            if near is not None and near <= at:
                rate *= _STEP ** (at - near)
            elif near is not None:
                rate = 1 - (1 - rate) * _STEP ** (near - at)
            guesses.append(rate)
        return guesses

    def _row(self, name: str, rng: random.Random) -> Prompt:
        """The next row that is new or inside the filter; any row where this draw measures again, or none is found."""
        again = rng.random() < _MEASURED_AGAIN or not self._adaptive
        for _ in range(_TRIES):
            prompt = self._drawn(name, 0)
            rate = self._rates[name].get(prompt.place)
            if again or rate is None or self._useful(_mean(rate)):
                break
        return prompt

    def _drawn(self, name: str, level: int) -> Prompt:
        index = self._draws[name]
        self._draws[name] += 1
        prompt = self._sources[name].draw(index, level)
        self._latest[name] = (index, level, prompt.place)
        return prompt

    def _useful(self, rate: float) -> bool:
        return _HARD < rate < self._easy

    def _note(self, figure: str, value: float) -> None:
        _add(self._figures.setdefault(figure, [0.0, 0.0]), value, _FIGURE_MEMORY)

    # The position ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON values from which `load` goes on."""
        return {
            "count": self._count,
            "draws": dict(self._draws),
            "latest": {name: list(latest) for name, latest in self._latest.items()},
            "rates": {name: {key: list(mean) for key, mean in rates.items()} for name, rates in self._rates.items()},
            "figures": {name: list(mean) for name, mean in self._figures.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken: the same prompts follow.

        Raises DataError where it is of other sources, or files have changed so that other prompts would follow.
        """
        if state["draws"].keys() != self._draws.keys():
            raise DataError(f"the checkpoint draws from {_names(state['draws'])}, this run from {_names(self._draws)}")
        for name, (index, level, place) in state["latest"].items():
            now = self._sources[name].draw(index, level).place
            if now != place:
                raise DataError(
                    f"draw {index} of {name} was {place} at the checkpoint and is {now}: the data changed; "
                    "a run of its own can go on from the weights: --start FOLDER"
                )
            self._latest[name] = (index, level, place)
        self._count, self._draws = state["count"], dict(state["draws"])
        self._rates = {name: {key: list(mean) for key, mean in rates.items()} for name, rates in state["rates"].items()}
        self._figures = {name: list(mean) for name, mean in state["figures"].items()}


def _add(mean: Mean, value: float, memory: float) -> None:
    """Takes a value into a mean, in which all earlier ones fade by `memory`."""
    mean[:] = [memory * mean[0] + 1, memory * mean[1] + value]


def _mean(mean: Mean) -> float:
    return mean[1] / mean[0]


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
