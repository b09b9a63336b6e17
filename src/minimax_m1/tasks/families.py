"""The task families by name: what nano is trained and graded on."""

from __future__ import annotations

from collections.abc import Mapping

from minimax_m1.tasks import addition, recall, talk, tools
from minimax_m1.tasks.example import Family

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (addition.FAMILY, addition.SUMS, recall.FAMILY, tools.FAMILY, talk.FAMILY)
}
