"""Recall: facts told once in a longer text, asked for afterwards.

In: a generator of random numbers, a difficulty (which sets the length: 40 to 4,000 tokens on a logarithmic scale)
or a length. Out: a text that is a list of pairs, or filler prose with facts strewn in, followed by up to 24
questions; `needle` puts one fact at a given depth of a given length. The reply is "key: value": with the key said
first, the value is what followed it in the text, which a model with one softmax layer can look up in one step.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from minimax_m1.tasks.example import Example, Family, Message, assistant, matches, user, with_system
from minimax_m1.tasks.prose import approx_tokens, sentence
from minimax_m1.tasks.words import NAMES, NOUNS, first_syllable, made_up

Pair = tuple[str, str]  # key, value

MOST_PAIRS, MOST_NEEDLES, MOST_QUESTIONS = 200, 20, 24

_FACTS = (
    "The code of {key} is {value}.",
    "The code for {key} is {value}.",
    "Remember that the code for {key} is {value}.",
    "The value of {key} is {value}.",
)
_NUMBER_FACTS = (
    *_FACTS,
    "The secret number of {key} is {value}.",
    "{key} has the number {value}.",
    "The number of {key} is {value}.",
)
_QUESTIONS = (
    "What is the code of {key}?",
    "What is the code for {key}?",
    "What is the number of {key}?",
    "What is the number for {key}?",
    "What is the secret number of {key}?",
    "What is the value of {key}?",
    "Tell me the code of {key}.",
    "Tell me the value of {key}.",
    "Which value belongs to {key}?",
    "Which number does {key} have?",
    "Find the value of {key}.",
    "what is the code of {key}",
    "{key}?",
    "{key}",
)


def facts(rng: random.Random) -> Callable[[], Pair]:
    """A source of (key, value) pairs of one document: the keys are unique, some begin alike."""
    keys: list[str] = []
    taken: set[str] = set()
    capital = rng.random() < 0.2

    def fact() -> Pair:
        while True:
            kind = rng.random()
            start = first_syllable(rng.choice(keys).lower()) if keys and rng.random() < 0.3 else ""
            if kind < 0.12:
                key = rng.choice(NOUNS + NAMES)
            else:
                key = made_up(rng, start)
                key = f"{key} {made_up(rng)}" if kind < 0.25 else key
                key = key.capitalize() if capital else key
            if key not in taken:
                keys.append(key)
                taken.add(key)
                return key, _value(rng)

    return fact


def sample(rng: random.Random, difficulty: int, length: int | None = None) -> Example:
    """Draws a text with questions; `length` is its size in approximate tokens, by default set by the difficulty."""
    if length is None:
        length = round(40 * 100 ** ((difficulty - rng.random()) / 10))
    budget = max(length - 12, 12)  # the first question takes about twelve
    fact = facts(rng)
    if rng.random() < 0.5:
        document, pairs = _listing(rng, fact, budget)
    else:
        document, pairs = _story(rng, fact, budget, min(MOST_NEEDLES, 2 * difficulty))
    most = min(len(pairs), 4 + length // 50, MOST_QUESTIONS)  # a long text is worth more questions
    asked = rng.sample(pairs, rng.randint(1, most))
    messages: list[Message] = []
    for key, value in asked:
        messages += [user(rng.choice(_QUESTIONS).format(key=key)), assistant(f"{key}: {value}")]
    first = messages[0]["content"]
    joined = f"{first}\n\n{document}" if rng.random() < 0.1 else f"{document}\n\n{first}"
    return _example(rng, difficulty, [user(joined), *messages[1:]])


def needle(rng: random.Random, tokens: int, depth: float, count: Callable[[str], int] | None = None) -> Example:
    """One fact in filler prose, asked for at the end: for heat maps and evaluation.

    `tokens` is the size of the user message as `count` measures it (by default `approx_tokens`), hit within 2%
    from 200 tokens on. `depth` 0 puts the fact first, 1 last.
    """
    assert 0 <= depth <= 1 and tokens >= 40
    measure = count or approx_tokens
    key, value = made_up(rng), _value(rng)
    told = rng.choice(_NUMBER_FACTS if value.isdigit() else _FACTS).format(key=key, value=value)
    question = rng.choice(_QUESTIONS[:-2]).format(key=key)
    missing = tokens - measure(f"{told}\n\n{question}")
    filler: list[str] = []
    while missing > 60:
        filler.append(sentence(rng))
        missing -= measure(" " + filler[-1])
    endings = [[sentence(rng) for _ in range(rng.randint(0, 5))] for _ in range(64)]
    filler += min(endings, key=lambda ending: abs(missing - sum(measure(" " + line) for line in ending)))
    filler.insert(round(depth * len(filler)), told)
    messages = (user(f"{' '.join(filler)}\n\n{question}"), assistant(f"{key}: {value}"))
    return Example(family=FAMILY.name, difficulty=10, messages=messages, turns=(1,))


def _value(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        return str(rng.randrange(100, 10 ** rng.randint(3, 6)))
    return made_up(rng) if kind < 0.92 else rng.choice(NOUNS)


def _listing(rng: random.Random, fact: Callable[[], Pair], budget: int) -> tuple[str, list[Pair]]:
    """Lines "key: value"; where more than 200 pairs would be needed, prose between them fills the length."""
    style = rng.choice(("{key}: {value}", "{key} = {value}", "{key}:{value}", "{key} {value}"))
    pairs: list[Pair] = []
    lines: list[str] = []
    while budget > 0 or len(pairs) < 2:
        if len(pairs) < MOST_PAIRS:
            key, value = fact()
            pairs.append((key, value))
            lines.append(style.format(key=key, value=value))
        else:
            lines.append(sentence(rng))
        budget -= approx_tokens(lines[-1]) + 1
    rng.shuffle(lines)
    return "\n".join(lines), pairs


def _story(rng: random.Random, fact: Callable[[], Pair], budget: int, most: int) -> tuple[str, list[Pair]]:
    """Filler prose with 1 to `most` facts at random depths."""
    pairs = [fact() for _ in range(rng.randint(1, max(1, min(most, budget // 20))))]
    told = [rng.choice(_NUMBER_FACTS if v.isdigit() else _FACTS).format(key=k, value=v) for k, v in pairs]
    budget -= sum(approx_tokens(line) + 1 for line in told)
    lines: list[str] = []
    while budget > 0:
        lines.append(sentence(rng))
        budget -= approx_tokens(lines[-1]) + 1
    for line in told:
        lines.insert(rng.randint(0, len(lines)), line)
    breaks = rng.random() < 0.5  # paragraphs in every other story
    gaps = ["\n" if breaks and rng.random() < 0.15 else " " for _ in lines[1:]]
    return lines[0] + "".join(gap + line for gap, line in zip(gaps, lines[1:], strict=True)), pairs


def _example(rng: random.Random, difficulty: int, messages: list[Message]) -> Example:
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)
    kind = rng.random()
    if kind < 0.15:
        return with_system(example, "Answer from the text.")
    return with_system(example, "You are a helpful assistant.") if kind < 0.2 else example


FAMILY = Family(name="recall", sample=sample, verify=matches, at_length=sample)
