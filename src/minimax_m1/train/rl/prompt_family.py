"""`FamilyPrompts`: a task family as an endless source of prompts of one difficulty each.

In: a family's name, a tokenizer, a seed, the most tokens of a prompt. Out: one graded turn of one example, with the
columns `example` and `turn`, by which the family's own verifier grades an answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from minimax_m1.errors import DataError
from minimax_m1.tasks.example import Example, Split, draw, prompt_of
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.reward import Text

_TRIES = 1000


class FamilyPrompts:
    """Examples of one family and split; raises DataError where there is no such family."""

    levels: Sequence[int] = range(1, 11)

    def __init__(
        self, name: str, tokenizer: MiniMaxM1Tokenizer, seed: int, length: int, *, split: Split = "train"
    ) -> None:
        """`length`: the most tokens of a prompt."""
        if name not in FAMILIES:
            raise DataError(f"no task family {name!r}; there are {', '.join(sorted(FAMILIES))}")
        self.name = name
        self._family, self._tokenizer = FAMILIES[name], tokenizer
        self._seed, self._length, self._split = seed, length, split

    def draw(self, index: int, level: int) -> Prompt:
        """One example of exactly this difficulty, asked for any of its graded turns.

        Earlier turns have their reference replies. Raises DataError where no prompt of the level is short enough.
        """
        assert level in self.levels, f"there is no level {level}"
        rng = random.Random(f"{self._seed}/prompts/{self.name}/{index}")  # a seed's documents are others
        for _ in range(_TRIES):
            example = draw(self._family, rng, level, self._split)
            turn = rng.choice(example.turns or (0,))
            asked = _asked(example, turn)
            ids = self._encoded(asked, example)
            if len(ids) <= self._length:
                return Prompt(
                    source=self.name,
                    level=level,
                    asked=asked,
                    tools=example.tools,
                    ids=ids,
                    columns={"example": example, "turn": turn},
                    place=f"{self.name}/{index}",
                )
        raise DataError(
            f"none of {_TRIES} prompts of {self.name} at difficulty {level} fits into {self._length} tokens"
        )

    def _encoded(self, asked: Text, example: Example) -> list[int]:
        if isinstance(asked, str):
            return self._tokenizer.encode(asked)
        return encode_chat(self._tokenizer, asked, example.tools or None)


def _asked(example: Example, turn: int) -> Text:
    """The messages before the turn; of a raw text all up to its last equals sign."""
    return prompt_of(example, turn) if example.raw is None else example.raw.rpartition("=")[0] + "="
