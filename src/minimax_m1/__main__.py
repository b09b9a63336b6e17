"""`python -m minimax_m1` is `minimax-m1`."""

from __future__ import annotations

from minimax_m1.cli.main import main

if __name__ == "__main__":
    main()
