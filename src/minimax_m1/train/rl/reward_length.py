"""Whether a reward has come to love length: the running correlation of rewards and lengths within groups.

In: rewards and lengths of answers, with the prompts they belong to, batch by batch. Out: the correlation, and a
warning when it rises. A model as judge tends to prefer long answers, and a policy that finds this out grows without
getting better; the MiniMax-M1 report (arXiv 2506.13585, section 4.2) watches for it online and then recalibrates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence


class LengthBias:
    """The correlation over the last answers, of which those `half_life` answers ago count half.

    Rewards and lengths are taken relative to the mean of their group, so that hard prompts, whose answers are long and
    often wrong, do not hide it. The first `least` answers set what is usual; a warning comes when the correlation is
    `rise` above that, and again only after it has fallen to half of that rise. `told` is an earlier `state()`.
    """

    def __init__(
        self, *, half_life: float = 2000, least: float = 500, rise: float = 0.2, told: Mapping[str, float] | None = None
    ) -> None:
        assert half_life > 0 and least > 0 and rise > 0
        self._half_life, self._least, self._rise = half_life, least, rise
        start = {"answers": 0.0, "rr": 0.0, "ll": 0.0, "rl": 0.0, "usual": math.nan, "warned": 0.0}
        self._state = start if told is None else dict(told)
        assert self._state.keys() == start.keys()

    @property
    def correlation(self) -> float:
        """Pearson's r of reward and length; nan while either has not varied within a group."""
        spread = math.sqrt(self._state["rr"]) * math.sqrt(self._state["ll"])
        return max(-1.0, min(1.0, self._state["rl"] / spread)) if spread else math.nan

    def state(self) -> dict[str, float]:
        """All that it remembers, for `told` after a restart."""
        return dict(self._state)

    def update(self, rewards: Sequence[float], lengths: Sequence[int], groups: Sequence[Hashable]) -> str | None:
        """Takes a batch in; a sentence where the correlation has risen too far. An answer whose reward is nan is
        passed over.
        """
        members: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
        for reward, tokens, group in zip(rewards, lengths, groups, strict=True):
            if not math.isnan(reward):
                members[group].append((float(reward), float(tokens)))
        state, count = self._state, sum(map(len, members.values()))
        for name in ("rr", "ll", "rl"):
            state[name] *= 0.5 ** (count / self._half_life)
        for group_members in members.values():
            mean_r = math.fsum(r for r, _ in group_members) / len(group_members)
            mean_l = math.fsum(length for _, length in group_members) / len(group_members)
            for reward, length in group_members:
                state["rr"] += (reward - mean_r) ** 2
                state["ll"] += (length - mean_l) ** 2
                state["rl"] += (reward - mean_r) * (length - mean_l)
        state["answers"] += count
        return self._warning()

    def _warning(self) -> str | None:
        state, now = self._state, self.correlation
        if state["answers"] < self._least or math.isnan(now):
            return None
        if math.isnan(state["usual"]):
            state["usual"] = now
        risen = now - state["usual"]
        if state["warned"]:
            state["warned"] = float(risen > self._rise / 2)
        elif risen > self._rise:
            state["warned"] = 1.0
            return (
                f"rewards follow length: their correlation within groups is {now:.2f}, {risen:.2f} above the "
                f"{state['usual']:.2f} it began with; look at long answers, and recalibrate the judge"
            )
        return None
