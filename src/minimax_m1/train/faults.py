"""What is wrong with a user's JSONL files, line by line, found before a run begins.

In: files, and what reads one of their lines. Out: `Faults`, on which the reports of what is right with them build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimax_m1.errors import DataError
from minimax_m1.train.lines import numbered, place

_SHOWN = 20  # faults that a report spells out


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """faults: the first 20, "FILE:LINE: what is wrong"; more: how many others there are. bad: the places "FILE:LINE" of
    all faulty lines; unusable: whole files among the faults.
    """

    faults: tuple[str, ...]
    more: int
    bad: frozenset[str]
    unusable: tuple[Path, ...]

    def refuse(self, skip_bad: bool, what: str) -> None:
        """Raises DataError where lines, or `what` they are called, cannot be used and are not to be left out."""
        if self.unusable or (self.faults and not skip_bad):
            told = [*self.faults, *([f"and {self.more:,} more"] if self.more else [])]
            leave_out = "" if self.unusable else f", or leave these {what} out: --skip-bad"
            raise DataError("\n".join([*told, f"Nothing was trained: mend the data{leave_out}"]))


def read_files(
    files: Sequence[Path], read: Callable[[bytes], None], progress: Callable[[int], None] | None = None
) -> Faults:
    """Gives each line to `read`, whose DataErrors are the faults; `progress` is told the bytes of each."""
    faults: list[str] = []  # those that are shown
    bad: set[str] = set()
    unusable: list[Path] = []
    for path in files:
        try:
            for number, _, raw in numbered(path):
                if progress is not None:
                    progress(len(raw))
                try:
                    read(raw)
                except DataError as error:
                    bad.add(place(path, number))
                    if len(faults) < _SHOWN:
                        faults.append(f"{place(path, number)}: {error}")
        except DataError as error:
            unusable.append(path)
            if len(faults) < _SHOWN:
                faults.append(str(error))
    more = len(bad) + len(unusable) - len(faults)
    return Faults(faults=tuple(faults), more=more, bad=frozenset(bad), unusable=tuple(unusable))
