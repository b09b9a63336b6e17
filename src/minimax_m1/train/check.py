"""A look at JSONL files before a run begins: what there is to learn, and what is wrong, with file and line.

In: files, a tokenizer, the window. Out: a `Report` of counts and faults. Everything is read and encoded once, as a
run would, so that no run stops at a broken line hours later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimax_m1.errors import DataError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.kinds import encode_line, read_line
from minimax_m1.train.lines import numbered, place

_SHOWN = 20  # faults that a report spells out


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What files hold; counts are of good lines. Empty lines count nowhere.

    tokens, said, longest: tokens, those that the loss counts in full, and the most of one document. unread: keys
    that no kind reads, with their number of lines. faults: the first 20, "FILE:LINE: what is wrong"; more: how many
    others there are. bad: the places "FILE:LINE" of all faulty lines; unusable: whole files among the faults.
    """

    lines: int
    documents: int
    tokens: int
    said: int
    longest: int
    kinds: Mapping[str, int]
    unread: Mapping[str, int]
    faults: tuple[str, ...]
    more: int
    bad: frozenset[str]
    unusable: tuple[Path, ...]


def check(
    files: Sequence[Path], tokenizer: MiniMaxM1Tokenizer, length: int, progress: Callable[[int], None] | None = None
) -> Report:
    """Reads and encodes everything once. `length`: the window. `progress` is told the bytes of each line read."""
    counts, kinds, unread = Counter[str](), Counter[str](), Counter[str]()
    faults: list[str] = []  # those that are shown
    bad: set[str] = set()
    unusable: list[Path] = []
    longest = 0
    for path in files:
        try:
            for number, _, raw in numbered(path):
                if progress is not None:
                    progress(len(raw))
                try:
                    line = read_line(raw)
                    texts = encode_line(line, tokenizer, length)
                except DataError as error:
                    bad.add(place(path, number))
                    if len(faults) < _SHOWN:
                        faults.append(f"{place(path, number)}: {error}")
                    continue
                kinds[line.kind] += 1
                unread.update(line.unread)
                counts["documents"] += len(texts)
                for ids, said in texts:
                    counts["tokens"] += len(ids)
                    counts["said"] += sum(said)
                    longest = max(longest, len(ids))
        except DataError as error:
            unusable.append(path)
            if len(faults) < _SHOWN:
                faults.append(str(error))
    return Report(
        lines=kinds.total(),
        documents=counts["documents"],
        tokens=counts["tokens"],
        said=counts["said"],
        longest=longest,
        kinds=dict(kinds),
        unread=dict(unread),
        faults=tuple(faults),
        more=len(bad) + len(unusable) - len(faults),
        bad=frozenset(bad),
        unusable=tuple(unusable),
    )
