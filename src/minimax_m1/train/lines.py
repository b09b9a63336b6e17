"""The lines of JSONL files: read one by one with their places, and checked before a run begins.

In: files, a tokenizer, the window. Out: numbered lines (`numbered`), and a `Report` that counts what there is to learn
and names what is wrong with file and line (`check`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minimax_m1.errors import DataError
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.kinds import encode_line, read_line

_SHOWN = 20  # faults that a report spells out
_BOM = b"\xef\xbb\xbf"


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


def numbered(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Each line that is not blank: its number from 1, its offset in bytes, and what it says.

    Raises DataError: the file is missing, a folder, cannot be read, or holds no line.
    """
    try:
        with path.open("rb") as file:
            offset, found = 0, False
            for number, raw in enumerate(file, 1):
                start, offset = offset, offset + len(raw)
                if number == 1 and raw.startswith(_BOM):
                    start, raw = len(_BOM), raw[len(_BOM) :]
                if raw and not raw.isspace():
                    found = True
                    yield number, start, raw
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; name the files in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise DataError(f"{path}: the file is empty")


def place(path: Path, number: int) -> str:
    """How messages name a line."""
    return f"{path}:{number}"
