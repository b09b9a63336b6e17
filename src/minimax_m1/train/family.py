"""`FamilySource`: a task family as an endless source of documents.

In: a family's name, a tokenizer, a seed. Out: documents of examples of the training split, their difficulty uniform
up to the most that is asked for. Families that can write at a given length do so for half of the draws of long runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from minimax_m1.errors import DataError
from minimax_m1.tasks.example import Example, draw
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.conversation import Text, conversation_texts
from minimax_m1.train.document import Document, skipped_positions

_LONG = 4096  # tokens; families write this much by themselves
_SHORTEST = 1024  # tokens of a text written at length
_SHARE = 0.6  # families count tokens roughly: a small vocabulary needs half as many again
_TRIES = 1000


class FamilySource:
    """Examples of one family; raises DataError where there is no such family."""

    def __init__(self, name: str, tokenizer: MiniMaxM1Tokenizer, seed: int, max_position: int) -> None:
        if name not in FAMILIES:
            raise DataError(f"no task family {name!r}; there are {', '.join(sorted(FAMILIES))}")
        self.name = name
        self._family = FAMILIES[name]
        self._tokenizer, self._seed, self._max_position = tokenizer, seed, max_position

    def draw(self, index: int, difficulty: int, length: int) -> list[Document]:
        """One example, a document or more of at most `length` tokens; raises DataError where none is so short."""
        rng = random.Random(f"{self._seed}/{self.name}/{index}")
        for _ in range(_TRIES):
            texts = list(encode_example(self._example(rng, difficulty, length), self._tokenizer))
            if all(len(ids) <= length for ids, _ in texts):
                return [
                    Document(
                        ids=ids,
                        said=said,
                        positions=skipped_positions(len(ids), self._max_position, rng),
                        place=f"{self.name}/{index}",
                    )
                    for ids, said in texts
                ]
        raise DataError(f"none of {_TRIES} examples of {self.name} fits into {length} tokens")

    def _example(self, rng: random.Random, difficulty: int, length: int) -> Example:
        level = rng.randint(1, difficulty)
        at_length, family = self._family.at_length, self._family
        if at_length is not None and length > _LONG and rng.random() < 0.5:
            wanted = int(_SHORTEST * max(1.0, _SHARE * length / _SHORTEST) ** rng.random())
            family = replace(family, sample=lambda rng, level: at_length(rng, level, wanted))
        return draw(family, rng, level, "train")


def encode_example(example: Example, tokenizer: MiniMaxM1Tokenizer) -> Iterator[Text]:
    """The texts of an example, as `conversation_texts`; of a raw sum only what follows the last "=" is learned."""
    if example.raw is None:
        yield from conversation_texts(tokenizer, example.messages, example.tools or None, example.turns)
        return
    question, equals, answer = example.raw.rpartition("=")
    assert tokenizer.eos_token_id is not None
    asked, said = tokenizer.encode(question + equals), [*tokenizer.encode(answer), tokenizer.eos_token_id]
    yield asked + said, [0] * len(asked) + [1] * len(said)
