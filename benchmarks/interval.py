"""`Interval`: a mean and its 95% confidence interval.

In: one number of each independent run (seed), or one of each case. Out: Student's t over runs, Welch's t between two
sets of runs, or the percentile bootstrap over cases. The first two say what another seed would give, on these cases;
the third what other cases would give, with these models.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

_DRAWS = 4000  # resamples of a bootstrap
# Student's t, two-sided 95%, at 1, 2, ... degrees of freedom; more than there are here count as the last.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """`low` and `high` are None where a single run tells nothing of the next."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def over_seeds(cls, values: Sequence[float]) -> Self:
        """Of independent runs; also of differences between runs that share a seed."""
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean=mean)
        half = _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean=mean, low=mean - half, high=mean + half)

    @classmethod
    def between(cls, ours: Sequence[float], others: Sequence[float]) -> Self:
        """Of the difference of two means of independent runs, whose variances may differ (Welch)."""
        mean = statistics.fmean(ours) - statistics.fmean(others)
        if min(len(ours), len(others)) < 2:
            return cls(mean=mean)
        parts = [statistics.variance(values) / len(values) for values in (ours, others)]
        error = sum(parts)
        below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ours, others), strict=True))
        half = _t(error**2 / below) * math.sqrt(error) if below else 0.0
        return cls(mean=mean, low=mean - half, high=mean + half)

    @classmethod
    def over_cases(cls, values: Sequence[float]) -> Self:
        """Of one number a case, a score or a difference of scores on the same case; always the same for the same."""
        rng = random.Random("bootstrap")
        count = len(values)
        means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(_DRAWS))
        return cls(
            mean=statistics.fmean(values),
            low=means[round(0.025 * (_DRAWS - 1))],
            high=means[round(0.975 * (_DRAWS - 1))],
        )

    def told(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def points(self, sign: bool = False) -> str:
        """In hundredths, as "+15.2 (12.1 to 18.3)"; the mean alone where there is no interval."""
        mean = f"{100 * self.mean:+.1f}" if sign else f"{100 * self.mean:.1f}"
        if self.low is None or self.high is None:
            return mean
        return f"{mean} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def _t(freedom: float) -> float:
    """The quantile at the next smaller whole number of degrees of freedom, which makes the interval no narrower."""
    return _T[min(max(int(freedom), 1), len(_T)) - 1]
