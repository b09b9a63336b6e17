"""A look at JSONL files before a run begins: what there is to learn, and what is wrong, with file and line.

In: files, a tokenizer, the window. Out: a `Report` of counts and faults. Everything is read and encoded once, as a
run would, so that no run stops at a broken line hours later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.faults import Faults, read_files
from minimax_m1.train.kinds import encode_line, read_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Faults):
    """What files hold; counts are of good lines. Empty lines count nowhere.

    tokens, said, longest: tokens, those that the loss counts in full, and the most of one document. unread: keys
    that no kind reads, with their number of lines.
    """

    lines: int
    documents: int
    tokens: int
    said: int
    longest: int
    kinds: Mapping[str, int]
    unread: Mapping[str, int]


def check(
    files: Sequence[Path], tokenizer: MiniMaxM1Tokenizer, length: int, progress: Callable[[int], None] | None = None
) -> Report:
    """Reads and encodes everything once. `length`: the window. `progress` is told the bytes of each line read."""
    counts, kinds, unread = Counter[str](), Counter[str](), Counter[str]()

    def read(raw: bytes) -> None:
        line = read_line(raw)
        texts = encode_line(line, tokenizer, length)
        kinds[line.kind] += 1
        unread.update(line.unread)
        counts["documents"] += len(texts)
        for ids, said in texts:
            counts["tokens"] += len(ids)
            counts["said"] += sum(said)
            counts["longest"] = max(counts["longest"], len(ids))

    found = read_files(files, read, progress)
    return Report(
        lines=kinds.total(),
        documents=counts["documents"],
        tokens=counts["tokens"],
        said=counts["said"],
        longest=counts["longest"],
        kinds=dict(kinds),
        unread=dict(unread),
        faults=found.faults,
        more=found.more,
        bad=found.bad,
        unusable=found.unusable,
    )
