"""The lines of a JSONL file, one by one, each with its number and place.

In: a file. Out: what each line that is not blank says, undecoded, with its number from 1 and its offset in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minimax_m1.errors import DataError

_BOM = b"\xef\xbb\xbf"


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
