"""The documents of a run: task examples as token ids with loss weights and softmax positions, in a fixed order.

In: a recipe and a tokenizer. Out: an endless stream of `Document`s. Each follows from the seed and its number alone,
so the stream's whole position is a `Cursor`, and a run resumes to the token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from minimax_m1.tasks.example import Example, draw
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One isolated training text: ids, whether the assistant says each, and its position for softmax layers."""

    ids: list[int]
    said: list[int]
    positions: list[int]


@dataclass(slots=True, kw_only=True)
class Cursor:
    """How far the stream has come: examples drawn, and tokens given by each family."""

    examples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)


def documents(recipe: Recipe, tokenizer: MiniMaxM1Tokenizer, cursor: Cursor, max_difficulty: int) -> Iterator[Document]:
    """The next example's documents, family by family so that each keeps its share of tokens; moves the cursor."""
    total = sum(cursor.tokens.values())
    family = max(recipe.shares, key=lambda name: recipe.shares[name] * (total + 1) - cursor.tokens.get(name, 0))
    rng = random.Random(f"{recipe.seed}/{cursor.examples}")
    example = draw(FAMILIES[family], rng, rng.randint(1, max_difficulty), "train")
    cursor.examples += 1
    for ids, said in encode_example(example, tokenizer):
        cursor.tokens[family] = cursor.tokens.get(family, 0) + len(ids)
        yield Document(ids=ids, said=said, positions=skipped_positions(len(ids), recipe.max_position, rng))


def encode_example(example: Example, tokenizer: MiniMaxM1Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and the assistant's mask; where the template drops earlier thoughts, each turn is a text of its own."""
    if example.raw is not None:
        question, equals, answer = example.raw.rpartition("=")
        asked, said = tokenizer.encode(question + equals), [*tokenizer.encode(answer), _end(tokenizer)]
        yield asked + said, [0] * len(asked) + [1] * len(said)
        return
    early_thoughts = any("reasoning_content" in example.messages[turn] for turn in example.turns[:-1])
    for turn in example.turns if early_thoughts else example.turns[-1:]:
        messages, tools = example.messages[: turn + 1], example.tools or None
        ids, said = encode_chat(tokenizer, messages, tools, add_generation_prompt=False, with_mask=True)
        if early_thoughts:
            start = len(encode_chat(tokenizer, messages[:-1], tools))
            said = [0] * start + said[start:]
        yield ids, said


def _end(tokenizer: MiniMaxM1Tokenizer) -> int:
    assert tokenizer.eos_token_id is not None
    return tokenizer.eos_token_id


def skipped_positions(length: int, max_position: int, rng: random.Random) -> list[int]:
    """Positions that run on within 2 to 4 pieces and jump ahead between them (PoSE, arXiv 2309.10400).

    The last position is log-uniform up to `max_position`, so softmax layers meet every distance; lightning layers
    read no positions. One text in four keeps plain positions.
    """
    last = int(length * (max(max_position, length) / length) ** rng.random())
    if length < 4 or rng.random() < 0.25 or last <= length:
        return list(range(length))
    pieces = rng.randint(2, 4)
    cuts = sorted(rng.sample(range(1, length), pieces - 1))
    gaps = sorted(rng.randint(0, last - length) for _ in cuts)  # total jump before each later piece
    positions: list[int] = []
    shift = start = 0
    for cut, gap in zip([*cuts, length], [*gaps, 0], strict=True):
        positions.extend(range(start + shift, cut + shift))
        start, shift = cut, gap
    return positions
