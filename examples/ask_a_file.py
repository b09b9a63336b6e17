"""Has a server read a text file once, then answers questions about it from the terminal.

Run `make serve`, then `python examples/ask_a_file.py FILE`. The file is read again only where it was cut short: the
server keeps what it read on its disk, under the file's name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from minimax_m1.client import Client


def main(path: Path) -> None:
    """Reads the file at `path`, then answers each line of standard input."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", path.name)[:64]
    with Client() as client:
        client.contexts.create(name, path=path, on_progress=lambda read, of: print(f"\rread {read} of {of}", end=""))
        print("\nAsk; an empty line ends.")
        while question := input("> ").strip():
            with client.contexts.ask_stream(name, question) as answer:
                for piece in answer.text():
                    print(piece, end="", flush=True)
            print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
