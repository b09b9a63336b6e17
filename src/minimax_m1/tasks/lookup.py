"""Lookup: several facts at once, facts that change later in the text, all facts of a kind, how often one was told.

In: a generator of random numbers and a difficulty (which sets the length: 50 to 400 tokens) or a length.
Out: a text and one or more questions whose replies have one line "key: value" for each fact, as in `recall`.
Facts that change are gone through one by one in the thought, "key 1: value", "key 2: value", "key 3: none": each line
asks for what follows the one before it, which one softmax layer can look up where the text links the two (by a
number, or as "from 17 to 23"); where it only says "now", what stands later in a short text has to be felt.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from minimax_m1.tasks.example import Example, Family, Message, Reply, assistant, reference_of, user, with_system
from minimax_m1.tasks.prose import approx_tokens, sentence
from minimax_m1.tasks.recall import Pair, facts
from minimax_m1.tasks.words import words

MOST_KEYS, MOST_VALUES, MOST_ASKED, MOST_QUESTIONS = 60, 6, 8, 12

_KINDS = words("code colour price number size age owner")
_CHANGING_KINDS = words("code number price value")
_TOLD = ("The {kind} of {key} is {value}.", "The {kind} for {key} is {value}.", "{key} has the {kind} {value}.")
_CHANGES = (  # the first telling of a value, and each one after it
    ("The {kind} of {key} is {value}.", "The {kind} of {key} changed from {before} to {value}."),
    ("The {kind} of {key} is {value}.", "The {kind} of {key} was {before} and is {value} now."),
    ("{kind} {number} of {key} is {value}.", "{kind} {number} of {key} is {value}."),
    ("{key} {number}: the {kind} is {value}.", "{key} {number}: the {kind} is {value}."),
    ("The {kind} of {key} is {value}.", "The {kind} of {key} is now {value}."),
    ("The {kind} of {key} is {value}.", "Now the {kind} of {key} is {value}."),
)
_SEVERAL = (
    "What are the {kind}s of {keys}?",
    "Tell me the {kind}s of {keys}.",
    "Find the {kind}s of {keys}.",
    "Look up the {kind}s of {keys}.",
    "I need the {kind}s of {keys}.",
    "which {kind}s do {keys} have",
)
_ALL = (
    "List everything that has a {kind}.",
    "Which {kind}s are told? List them all.",
    "List all the {kind}s.",
    "Tell me every {kind} in the text.",
    "Find all the {kind}s.",
    "what has a {kind}",
)
_LATEST = (
    "What is the {kind} of {key} now?",
    "What is the latest {kind} of {key}?",
    "Tell me the last {kind} of {key}.",
    "What {kind} does {key} have in the end?",
    "Find the newest {kind} of {key}.",
    "the last {kind} of {key}",
)
_TIMES = (
    "How many {kind}s did {key} have?",
    "How often was a {kind} of {key} told?",
    "Count the {kind}s of {key}.",
    "How many times do we hear the {kind} of {key}?",
    "count how often the text tells the {kind} of {key}",
)
_LINES = ("One line for each: name: {kind}.", "Write lines like name: {kind}.", "Answer with lines name: {kind}.")
_LINE = ("Answer as {key}: {kind}.", "Write {key}: and the {kind}.", "Give one line, {key}: {kind}.")
_COUNT = ("Answer as {key}: count.", "Write {key}: and the count.", "Give one line, {key}: count.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """What a text tells: of each kind, in order of telling, the pairs; and in order the values of each key."""

    document: str
    kinds: dict[str, list[Pair]]
    values: dict[str, list[str]]


def sample(rng: random.Random, difficulty: int, length: int | None = None) -> Example:
    """Draws a text with questions; `length` is its size in approximate tokens, by default set by the difficulty."""
    if length is None:
        length = round(50 * 8 ** ((difficulty - rng.random()) / 10))
    ask = rng.choice((_ask_several, _ask_all, _ask_latest, _ask_latest, _ask_times))
    tell = _steady if ask in (_ask_several, _ask_all) else _changing
    text = tell(rng, difficulty, length)
    most = min(MOST_QUESTIONS, max(1, length // 400)) if length > 800 else 2 if rng.random() < 0.25 else 1
    messages: list[Message] = []
    for _ in range(rng.randint(1, most)):
        messages += ask(rng, difficulty, text)
    messages[0] = user(f"{text.document}\n\n{messages[0]['content']}")
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)
    return with_system(example, "Answer from the text.") if rng.random() < 0.15 else example


def at_length(rng: random.Random, difficulty: int, length: int) -> Example:
    """An example whose text has about `length` approximate tokens; the difficulty sets how much is asked at once."""
    return sample(rng, difficulty, length)


def verify(example: Example, turn: int, reply: Reply) -> bool:
    """True where the reply has the reference's lines, each once, in any order, and nothing else."""
    if reply.tool_calls:
        return False
    return sorted(line.strip() for line in reply.content.strip().split("\n")) == sorted(
        reference_of(example, turn).content.split("\n")
    )


def findings(key: str, values: list[str]) -> str:
    """The thought: the values of a key in the order of telling, numbered, and that there is no further one."""
    return "\n".join(f"{key} {number}: {value}" for number, value in enumerate([*values, "none"], 1))


def _steady(rng: random.Random, difficulty: int, length: int) -> _Text:
    """Each key has one value that never changes; the keys are of two or three kinds."""
    fact = _short_facts(rng)
    kinds: dict[str, list[Pair]] = {kind: [] for kind in rng.sample(_KINDS, rng.randint(2, 3))}
    count = min(MOST_KEYS, length // 25, 2 + 2 * difficulty)
    told: list[tuple[str, str, Pair]] = []
    style = rng.choice(_TOLD)
    for number in range(max(count, len(kinds) + 1)):
        kind = list(kinds)[number] if number < len(kinds) else rng.choice(list(kinds))
        pair = fact()
        told.append((style.format(kind=kind, key=pair[0], value=pair[1]), kind, pair))
    rng.shuffle(told)
    if rng.random() < 0.4:  # kind by kind, as a register has it
        told.sort(key=lambda line: list(kinds).index(line[1]))
    for _, kind, pair in told:
        kinds[kind].append(pair)
    document = _strew(rng, [line for line, _, _ in told], length)
    return _Text(document=document, kinds=kinds, values={})


def _changing(rng: random.Random, difficulty: int, length: int) -> _Text:
    """Some keys of one kind whose values change; all values of a text differ."""
    fact = _short_facts(rng)
    kind = rng.choice(_CHANGING_KINDS)
    first, later = rng.choice(_CHANGES)
    values: dict[str, list[str]] = {}
    taken: set[str] = set()
    most = min(MOST_VALUES, 2 + difficulty // 2)
    count = min(MOST_KEYS // 6, 1 + difficulty // 2, max(1, length // (12 * most)))
    events: list[str] = []
    for _ in range(max(count, 2)):
        key, _ = fact()
        values[key] = []
        changes = rng.randint(1, most)
        while len(values[key]) < changes:
            value = str(rng.randrange(10 ** rng.randint(2, 4)))
            if value not in taken:
                taken.add(value)
                values[key].append(value)
        events += [key] * changes
    rng.shuffle(events)
    told: dict[str, int] = dict.fromkeys(values, 0)
    lines: list[str] = []
    for key in events:
        number = told[key]
        told[key] += 1
        before = values[key][number - 1] if number else ""
        line = (later if number else first).format(
            kind=kind, key=key, value=values[key][number], before=before, number=number + 1
        )
        lines.append(line[0].upper() + line[1:] if not line.startswith(key) else line)
    return _Text(document=_strew(rng, lines, length), kinds={kind: []}, values=values)


def _ask_several(rng: random.Random, difficulty: int, text: _Text) -> list[Message]:
    kind, pairs = rng.choice([(kind, pairs) for kind, pairs in text.kinds.items() if len(pairs) >= 2])
    asked = rng.sample(pairs, rng.randint(2, min(len(pairs), 2 + difficulty // 2, MOST_ASKED)))
    *most, last = (key for key, _ in asked)
    question = rng.choice(_SEVERAL).format(kind=kind, keys=f"{', '.join(most)} and {last}")
    return _exchange(rng, question, _LINES, "\n".join(f"{key}: {value}" for key, value in asked), kind)


def _ask_all(rng: random.Random, difficulty: int, text: _Text) -> list[Message]:
    kind, pairs = rng.choice([(kind, pairs) for kind, pairs in text.kinds.items() if len(pairs) <= 4 + difficulty])
    question = rng.choice(_ALL).format(kind=kind)
    return _exchange(rng, question, _LINES, "\n".join(f"{key}: {value}" for key, value in pairs), kind)


def _ask_latest(rng: random.Random, difficulty: int, text: _Text) -> list[Message]:
    (kind,) = text.kinds
    key, values = rng.choice(list(text.values.items()))
    question = rng.choice(_LATEST).format(kind=kind, key=key)
    return _exchange(rng, question, _LINE, f"{key}: {values[-1]}", kind, key, findings(key, values))


def _ask_times(rng: random.Random, difficulty: int, text: _Text) -> list[Message]:
    (kind,) = text.kinds
    key, values = rng.choice(list(text.values.items()))
    question = rng.choice(_TIMES).format(kind=kind, key=key)
    return _exchange(rng, question, _COUNT, f"{key}: {len(values)}", kind, key, findings(key, values))


def _exchange(
    rng: random.Random, question: str, forms: tuple[str, ...], content: str, kind: str, key: str = "", thought: str = ""
) -> list[Message]:
    """The question with the form of its answer, before or after it, and the reply."""
    form = rng.choice(forms).format(kind=kind, key=key)
    question = question if question[-1] in ".?" else question + "."
    asked = f"{question} {form}" if rng.random() < 0.8 else f"{form} {question}"
    return [user(asked), assistant(content, thought)]


def _short_facts(rng: random.Random) -> Callable[[], Pair]:
    """Facts as `recall` has them, but keys of one word, so that a list of keys reads well."""
    fact = facts(rng)

    def short() -> Pair:
        while True:
            key, value = fact()
            if " " not in key:
                return key, value

    return short


def _strew(rng: random.Random, told: list[str], length: int) -> str:
    """The told lines in their order at random depths of filler prose, or as lines of their own in a short text."""
    missing = length - 20 - sum(approx_tokens(line) + 1 for line in told)
    filler: list[str] = []
    while missing > 6:
        filler.append(sentence(rng))
        missing -= approx_tokens(filler[-1]) + 1
    places = sorted(rng.randint(0, len(filler)) for _ in told)
    lines: list[str] = []
    start = 0
    for place, line in zip(places, told, strict=True):
        lines += filler[start:place]
        lines.append(line)
        start = place
    lines += filler[start:]
    return ("\n" if rng.random() < 0.3 else " ").join(lines)


FAMILY = Family(name="lookup", sample=sample, verify=verify, at_length=at_length)
