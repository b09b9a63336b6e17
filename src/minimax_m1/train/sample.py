"""What the model says while it trains: a few questions, asked again and again.

In: a run's sources and the model as it stands. Out: lines to show, and the same in samples.jsonl: step, question,
answer, reference. Questions of task families come from the validation split, which training never sees; those of the
user's files are lines that it trains on. Answers are greedy: nothing random moves, and the run goes on as it would.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.tasks.example import draw
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.family import encode_example
from minimax_m1.train.source import Source

_QUESTIONS = 3
_MOST_TOKENS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question and what the model made of it; the ends of both where they are long."""

    step: int
    source: str
    question: str
    answer: str
    reference: str

    def __str__(self) -> str:
        return f"{self.source}: {self.question!r} -> {self.answer!r}"


class Sampler:
    """Chooses and asks the questions."""

    def __init__(
        self, sources: Sequence[Source], tokenizer: MiniMaxM1Tokenizer, file: Path, seed: int, length: int
    ) -> None:
        """`file` is written to, `length` the most tokens of a document."""
        self._sources, self._tokenizer, self._file = sources, tokenizer, file
        self._rng, self._length = random.Random(f"{seed}/samples"), length

    def ask(self, model: MiniMaxM1ForCausalLM, step: int) -> Iterator[Sample]:
        """Asks some questions; raises OSError where the file cannot be written, DataError where data has changed."""
        model.eval()
        for source in self._rng.sample(self._sources, min(_QUESTIONS, len(self._sources))):
            ids, said = self._document(source)
            start = said.index(1) if 0 < sum(said) < len(said) else min(16, len(ids) - 1)
            with torch.no_grad():
                asked = torch.tensor([ids[:start]], device=model.device)
                answer = model.generate(asked, max_new_tokens=_MOST_TOKENS)[0, start:].tolist()
            sample = Sample(
                step=step,
                source=source.name,
                question=self._text(ids[:start])[-200:],
                answer=self._text(answer),
                reference=self._text(ids[start : start + _MOST_TOKENS]),
            )
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
            yield sample

    def _document(self, source: Source) -> tuple[list[int], list[int]]:
        """Ids, and which of them the assistant says."""
        if source.name in FAMILIES:
            example = draw(FAMILIES[source.name], self._rng, self._rng.randint(1, 4), "validation")
            return next(iter(encode_example(example, self._tokenizer)))
        document = source.draw(self._rng.randrange(_QUESTIONS), 1, self._length)[0]
        return document.ids, document.said

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids))
