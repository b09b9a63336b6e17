"""Words and lists handled as data: reversed, sorted, counted, shifted, spelled, cut.

In: a generator of random numbers and a difficulty (words of 3 to 12 letters, lists of 3 to 8 items). Out:
conversations whose thought works letter by letter or item by item and whose content is the result alone.
"""

from __future__ import annotations

import random

from minimax_m1.tasks import letters, lists
from minimax_m1.tasks.example import Example, Family, matches
from minimax_m1.tasks.job import converse


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws one job, or two; more than half of them on letters."""
    return converse(FAMILY.name, letters.JOBS + lists.JOBS, rng, difficulty)


FAMILY = Family(name="strings", sample=sample, verify=matches)
