"""Rewards out of a user's own Python file, named like "my_reward.py", "my_reward.py:name" or "my_reward.py:name=0.5".

In: that text. Out: a `Reward` whose function runs in a process of its own (`reward_worker.py`). TRL's functions
`reward(prompts, completions, **columns) -> list[float | None]`, plain or async, are called as they are; verl's
`compute_score(data_source, solution_str, ground_truth, extra_info=None)` once an answer. They get what JSON can hold.
One that never returns is cut off, and one that crashes its process gets a new one for the next batch.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minimax_m1.errors import DataError
from minimax_m1.train.rl import reward_worker
from minimax_m1.train.rl.process import Ended, Process, Unusable
from minimax_m1.train.rl.reward import Answers, Flaw, Reward, Verdict, one_line

_SPEC = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>\w+))?(?:=(?P<weight>[^=]*))?", re.DOTALL)
_WHOLE = -1  # instead of an answer's index: the batch as a whole
_MOST_ALONE = 64  # answers that are tried one by one to find the one at fault


def reward_of(text: str, *, timeout: float = 60.0) -> Reward:
    """The reward that `text` names; its process has started. `timeout` is seconds a batch.

    Without a name the function is `reward`, or else `compute_score`. A function for batches that raised is called again
    with single answers, up to 64, to find the one at fault.

    Raises:
        DataError: the text, the file, the function or its arguments cannot be used; names the file and the line.
    """
    parts = _SPEC.fullmatch(text)
    if parts is None:
        raise DataError(f"a reward is FILE.py, FILE.py:function or FILE.py:function=weight, got {text!r}")
    weight = 1.0 if parts["weight"] is None else weight_of(text, parts["weight"])
    path = Path(parts["path"])
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    function = _UserFunction(path.resolve(), parts["name"] or "", timeout)
    try:
        hello = function.start()
    except Unusable as error:
        raise DataError(f"{function.place(error.line)}: {error}") from None
    except Ended as error:
        raise DataError(f"{path}: {error} while it was loading") from None
    return Reward(
        name=f"{path.stem}.{hello['function']}",
        grade=function.grade,
        weight=weight,
        needs=frozenset(hello["needs"]),
        place=function.place(hello["line"]),
        close=function.close,
    )


def weight_of(text: str, weight: str) -> float:
    """The number behind the equals sign of a reward's `text`. Raises DataError where it is none, or not finite."""
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"the weight in {text!r} must be a finite number")
    return value


class _UserFunction:
    """One function of a user's file and the process that runs it."""

    def __init__(self, path: Path, name: str, timeout: float) -> None:
        assert timeout > 0
        self._path, self._name, self._timeout = path, name, timeout
        self._process: Process | None = None
        self._takes: frozenset[str] | None = None

    def place(self, line: int | None) -> str:
        """ "FILE:LINE", or the file alone."""
        return f"{self._path.name}:{line}" if line else self._path.name

    def start(self) -> dict[str, Any]:
        """Starts the process; what it says of the function. Raises Unusable or Ended."""
        process = Process(reward_worker.__name__, self._path, self._name)
        hello = process.hello()
        self._process = process
        self._takes = None if hello["takes"] is None else frozenset(hello["takes"])
        return hello

    def close(self, grace: float = 1.0) -> None:
        """Ends the process, after `grace` seconds by force, and all that it started."""
        if self._process is not None:
            self._process.end(grace)
            self._process = None

    def grade(self, answers: Answers) -> list[Verdict]:
        """The function's verdicts; flaws where it raised, did not return or ended its process."""
        verdicts: dict[int, Verdict] = {}
        deadline = time.monotonic() + self._timeout
        try:
            if self._process is None:
                self.start()
                deadline = time.monotonic() + self._timeout
            for index, verdict in self._asked(answers, deadline):
                verdicts[index] = verdict
            if _WHOLE not in verdicts:
                return [verdicts[index] for index in sorted(verdicts)]
            flaw = verdicts.pop(_WHOLE)
            assert isinstance(flaw, Flaw)
            flaw = replace(flaw, example=self._at_fault(flaw, answers, deadline))
        except TimeoutError:
            message = f"did not return within {self._timeout:g} s"
            line = None if self._process is None else self._process.where(self._process.pid)
            flaw = Flaw(error="TimeoutError", message=message, place=self.place(line))
            self.close(grace=0)
        except (Ended, Unusable) as error:
            kind, line = ("NotLoaded", error.line) if isinstance(error, Unusable) else ("ProcessEnded", None)
            flaw = Flaw(error=kind, message=str(error), place=self.place(line))
            self.close(grace=0)
        return [verdicts.get(index, flaw) for index in range(len(answers))]

    def _at_fault(self, flaw: Flaw, answers: Answers, deadline: float) -> int:
        """The first answer on which alone the function raises the same; 0 where none does in time."""
        assert self._process is not None
        try:
            for index in range(min(len(answers), _MOST_ALONE) if len(answers) > 1 else 0):
                for _, verdict in list(self._asked(answers.only(index), deadline)):
                    if isinstance(verdict, Flaw) and (verdict.error, verdict.place) == (flaw.error, flaw.place):
                        return index
        except (TimeoutError, Ended):  # what is known already is worth more than this
            self.close(grace=0)
        return 0

    def _asked(self, answers: Answers, deadline: float) -> Iterator[tuple[int, Verdict]]:
        """Each answer's index and verdict as they come, or `_WHOLE` and a flaw; to be read to the end."""
        assert self._process is not None
        batch = {**answers.columns, "prompts": answers.prompts, "completions": answers.completions}
        if self._takes is not None:
            batch = {name: values for name, values in batch.items() if name in self._takes}
        self._process.write(batch, deadline)
        while "done" not in (message := self._process.read(deadline)):
            yield (_WHOLE if message["index"] is None else message["index"]), self._verdict(message)

    def _verdict(self, message: Mapping[str, Any]) -> Verdict:
        if "error" in message:
            place = self.place(message["line"])
            return Flaw(error=message["error"], message=one_line(message["message"]), place=place)
        value: float | None = message["value"]
        return value
