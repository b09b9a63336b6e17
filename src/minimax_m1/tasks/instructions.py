"""Instructions: short requests whose form can be checked: sentences, lists, repetitions and JSON objects.

In: a generator of random numbers and a difficulty, which sets how long and how many constraints. Out: conversations.
A request is read back from its own words, for the reference as for grading, so any reply that does what it says is
right. A sentence is one that the grammar of `sentences` can say; an item of a list is a word known to be of the kind.
Where words are counted the thought counts them down: "4 the 3 old 2 fox 1 slept". The reference follows from the
request, so that one prompt has one reference.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

from minimax_m1.tasks.example import Example, Family, Message, Reply, assistant, user, with_system
from minimax_m1.tasks.sentences import Wish, keeps, write
from minimax_m1.tasks.words import ACTS, ADJECTIVES, CITIES, MOVES, NAMES, NOUNS, PLACES, RESTS, TIMES, made_up, words

_MOST_CHARACTERS = 1000  # of a reply; the longest right one has about 250
_NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
KINDS: dict[str, tuple[str, ...]] = {
    "animals": words("horse dog cat bird fish fox wolf bear rabbit lion tiger cow pig sheep goat duck mouse frog"),
    "colours": words("red blue green black white yellow brown grey pink orange golden silver"),
    "cities": CITIES,
    "names": NAMES,
    "places": PLACES,
    "words": (*NOUNS, *PLACES, *ADJECTIVES, *MOVES, *ACTS, *RESTS, *TIMES),
}
_VALUES = {"name": NAMES, "city": CITIES, "animal": KINDS["animals"], "colour": KINDS["colours"], "place": PLACES}
_NUMBER_KEYS = ("age", "count", "year")
_COMMAS = ("separated by commas", "with commas between them")
_STYLES = (*_COMMAS, "as a numbered list", "one on each line")

_SENTENCE = ("Write a sentence{about}.", "Give me a sentence{about}.", "Please write one sentence{about}.",
             "I need a sentence{about}.", "Say a sentence{about}.", "Make up a sentence{about}.")  # fmt: skip
_COUNTS = ("Use exactly {} words.", "It has exactly {} words.", "Write exactly {} words.")
_USES = ("Use the words {} and {}.", "It must have the words {} and {}.", "Put in the words {} and {}.")
_FIRST = ("Begin with the word {}.", "Its first word is {}.", "The first word is {}.")
_LAST = ("End with the word {}.", "Its last word is {}.", "The last word is {}.")
_WITHOUT = ("Do not use the letter {}.", "It has no letter {}.", "Leave out the letter {}.")
_CAPITALS = ("Use capital letters only.", "Answer in capital letters.", "All in capital letters.")
_LISTS = ("Name {count} {kind}{start}, {style}.", "List {count} {kind}{start}, {style}.",
          "Give me {count} {kind}{start}, {style}.", "Write {count} {kind}{start}, {style}.",
          "I need {count} {kind}{start}, {style}.", "Tell me {count} {kind}{start}, {style}.")  # fmt: skip
_REPEATS = ("Say {word} {count} times, {style}.", "Write {word} {count} times, {style}.",
            "Repeat {word} {count} times, {style}.", "Print {word} {count} times, {style}.",
            "I want to read {word} {count} times, {style}.")  # fmt: skip
_REPEATED = ("separated by commas", "with a space between", "one on each line")
_OBJECTS = ("Write a JSON object with {}.", "Give me JSON with {}.", "Make a JSON object with {}.",
            "Answer in JSON, with {}.", "I need a JSON object with {}.")  # fmt: skip


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a request, in a fifth of the cases a second one after it."""
    messages: list[Message] = []
    for _ in range(2 if rng.random() < 0.2 else 1):
        ask = rng.choices((_ask_sentence, _ask_list, _ask_repeat, _ask_object), (5, 3, 1, 2))[0]
        request = ask(rng, difficulty)
        messages += [user(request), assistant(*answer(request))]
    turns = tuple(range(1, len(messages), 2))
    example = Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.1 else example


def verify(example: Example, turn: int, reply: Reply) -> bool:
    """True where the reply does all that the request before it says."""
    content = reply.content.strip()
    if reply.tool_calls or not content or len(content) > _MOST_CHARACTERS:
        return False
    return fits(example.messages[turn - 1]["content"], content)


def fits(request: str, content: str) -> bool:
    """Whether the text does what the request says."""
    if "JSON" in request:
        return _fits_object(request, content)
    capitals = "capital letters" in request
    if capitals and content != content.upper():
        return False
    if " times," in request:
        repeated = _repeated(request)
        return _items(request, content) == ([word.upper() for word in repeated] if capitals else repeated)
    sentence = " sentence" in request
    if capitals:  # what follows is compared as it would stand in small letters
        known = {word.upper(): word for word in (*KINDS["names"], *KINDS["cities"])}
        content = re.sub(r"\w+", lambda found: known.get(found[0], found[0].lower()), content)
        content = content[0].upper() + content[1:] if sentence else content
    if sentence:
        return keeps(_read_sentence(request), content)
    count, items = _read_count(request), _items(request, content)
    kind, start = _read_kind(request)
    right = {word for word in KINDS[kind] if word.lower().startswith(start)}
    return len(items) == len(set(items)) == count and set(items) <= right


def answer(request: str) -> tuple[str, str]:
    """A content and a thought that do what the request says; the same for the same request."""
    rng = random.Random(request)
    thought = ""
    if "JSON" in request:
        return _write_object(rng, request), ""
    if " sentence" in request:
        wish = _read_sentence(request)
        said = write(rng, wish)
        content = said[0].upper() + said[1:] + "."
        thought = _countdown(said.split()) if wish.count else ""
    else:
        if " times," in request:
            items = _repeated(request)
        else:
            kind, start = _read_kind(request)
            items = rng.sample([word for word in KINDS[kind] if word.lower().startswith(start)], _read_count(request))
            thought = _countdown(items) if "numbered" not in request else ""
        content = _joined(request, items)
    return content.upper() if "capital letters" in request else content, thought


def _ask_sentence(rng: random.Random, difficulty: int) -> str:
    """One to four constraints that a sentence drawn before keeps."""
    kinds = ["about", "count", "uses", "last", "first", "without"]
    chosen = rng.sample(kinds, rng.randint(1 + difficulty // 4, 1 + difficulty // 3))
    wish = Wish(without=rng.choice("eaosirn") if "without" in chosen else "")
    wish = replace(
        wish, count=rng.randint(3 + difficulty // 3, 8 if wish.without else 4 + difficulty) if "count" in chosen else 0
    )
    said = write(rng, wish).split()
    nouns = [word for word in said if word in NOUNS + PLACES + NAMES]
    request = rng.choice(_SENTENCE).format(about=f" about {_a(nouns[0])}" if "about" in chosen else "")
    clauses: list[str] = []
    if wish.count:
        clauses.append(rng.choice(_COUNTS).format(_number(rng, wish.count)))
    used = [word for word in said if word in NOUNS + PLACES + NAMES + MOVES + ACTS + RESTS + TIMES]
    if "uses" in chosen and len(set(used)) >= 2:
        clauses.append(rng.choice(_USES).format(*rng.sample(used, 2)))
    if "first" in chosen and said[0] not in ("a", "an"):
        clauses.append(rng.choice(_FIRST).format(said[0]))
    if "last" in chosen:
        clauses.append(rng.choice(_LAST).format(said[-1]))
    if wish.without:
        clauses.append(rng.choice(_WITHOUT).format(wish.without))
    if rng.random() < (0.1 if difficulty < 4 else 0.2):
        clauses.append(rng.choice(_CAPITALS))
    rng.shuffle(clauses)
    return " ".join((request, *clauses))


def _ask_list(rng: random.Random, difficulty: int) -> str:
    kind = rng.choice(list(KINDS))
    count = rng.randint(2 + difficulty // 4, 2 + difficulty // 2)
    starts = [s for s in "abcdefghlmprstw" if sum(word.lower().startswith(s) for word in KINDS[kind]) > count]
    letter = kind == "words" or (difficulty > 3 and rng.random() < 0.3)
    start = f" that start with {rng.choice(starts)}" if letter and starts else ""
    request = rng.choice(_LISTS).format(count=_number(rng, count), kind=kind, start=start, style=rng.choice(_STYLES))
    return f"{request} {rng.choice(_CAPITALS)}" if rng.random() < 0.15 else request


def _ask_repeat(rng: random.Random, difficulty: int) -> str:
    word = made_up(rng) if rng.random() < 0.5 else rng.choice(NOUNS)
    count = rng.randint(2, 2 + difficulty // 3)
    request = rng.choice(_REPEATS).format(word=word, count=_number(rng, count), style=rng.choice(_REPEATED))
    return f"{request} {rng.choice(_CAPITALS)}" if rng.random() < 0.2 else request


def _ask_object(rng: random.Random, difficulty: int) -> str:
    keys = rng.sample([*_VALUES, *_NUMBER_KEYS], rng.randint(1 + difficulty // 4, 2 + difficulty // 4))
    if rng.random() < 0.4:
        return rng.choice(_OBJECTS).format(f"the key{'s' * (len(keys) > 1)} {_and(keys)}")
    told = [f"{key} = {rng.randrange(1000) if key in _NUMBER_KEYS else rng.choice(_VALUES[key])}" for key in keys]
    return rng.choice(_OBJECTS).format(_and(told))


def _read_sentence(request: str) -> Wish:
    def found(pattern: str) -> str:
        match = re.search(pattern, request)
        return match[1] if match else ""

    uses = re.search(r"words (\w+) and (\w+)\.", request)
    return Wish(
        about=found(r"about (?:an? )?(\w+)"),
        count=_value(found(r"exactly (\w+) words")),
        uses=uses.groups() if uses else (),
        first=found(r"(?:Begin with the|first) word (?:is )?(\w+)\."),
        last=found(r"(?:End with the|last) word (?:is )?(\w+)\."),
        without=found(r"letter (\w)\."),
    )


def _read_count(request: str) -> int:
    """The number in a request for a list."""
    return next(value for word in re.findall(r"\w+", request) if (value := _value(word)))


def _read_kind(request: str) -> tuple[str, str]:
    kind = next(word for word in re.findall(r"\w+", request) if word in KINDS)
    start = re.search(r"start with (\w)", request)
    return kind, start[1] if start else ""


def _repeated(request: str) -> list[str]:
    said = re.search(r"(?:Say|Write|Repeat|Print|read) (\w+) (\w+) times,", request)
    assert said, f"{request!r} repeats nothing"
    return [said[1]] * _value(said[2])


def _items(request: str, content: str) -> list[str]:
    """The items of a list written in the style that the request names; a line or a number amiss leaves none."""
    if "comma" in request:
        return [item.strip(" ") for item in content.split(",")]
    if "space" in request:
        return content.split(" ")
    lines = content.split("\n")
    if "numbered" in request:
        marks = [f"{number}. " for number in range(1, len(lines) + 1)]
        right = all(line.startswith(mark) for line, mark in zip(lines, marks, strict=True))
        return [line[len(mark) :] for line, mark in zip(lines, marks, strict=True)] if right else []
    return lines


def _joined(request: str, items: list[str]) -> str:
    if "numbered" in request:
        return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
    return (", " if "comma" in request else " " if "space" in request else "\n").join(items)


def _fits_object(request: str, content: str) -> bool:
    """Whether the text is one JSON object with just the keys asked for, and values that are given or of the kind."""
    if not content.startswith("{"):
        return False
    try:
        pairs = json.loads(content, object_pairs_hook=list)  # a list of pairs shows a key that stands twice
    except (ValueError, RecursionError):  # a model may write anything
        return False
    keys, given = _read_object(request)
    if sorted(key for key, _ in pairs) != sorted(keys):
        return False
    return all(
        (type(value) is int and 0 <= value < 10000 if key in _NUMBER_KEYS else value in _VALUES[key])
        and given.get(key, str(value)) == str(value)
        for key, value in pairs
    )


def _read_object(request: str) -> tuple[list[str], dict[str, str]]:
    given = dict(re.findall(r"(\w+) = (\w+)", request))
    known = [word for word in re.findall(r"\w+", request) if word in (*_VALUES, *_NUMBER_KEYS)]
    return list(given) or known, given


def _write_object(rng: random.Random, request: str) -> str:
    keys, given = _read_object(request)
    values: dict[str, str | int] = {}
    for key in keys:
        if key in _NUMBER_KEYS:
            values[key] = int(given.get(key, rng.randint(1, 99)))
        else:
            values[key] = given.get(key, rng.choice(_VALUES[key]))
    return json.dumps(values)


def _countdown(said: list[str]) -> str:
    """The thought that counts: each word behind the number of words still to come, itself included."""
    return " ".join(f"{len(said) - place} {word}" for place, word in enumerate(said))


def _number(rng: random.Random, value: int) -> str:
    return _NUMBERS[value] if rng.random() < 0.5 else str(value)


def _value(text: str) -> int:
    return int(text) if text.isdecimal() else _NUMBERS.index(text) if text in _NUMBERS else 0


def _and(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def _a(word: str) -> str:
    return word if word in NAMES else f"an {word}" if word[0] in "aeiou" else f"a {word}"


FAMILY = Family(name="instructions", sample=sample, verify=verify)
