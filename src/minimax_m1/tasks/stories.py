"""Stories: short ones told on request, and questions about one that was given or told.

In: a generator of random numbers and a difficulty, which sets the number of sentences (4 to 12). Out: conversations.
A story has a hero who lives somewhere, a wish, someone in the way and an end; a reply is a story where each sentence
is one of the grammar's, they stand in its order, everyone keeps their name, and all that was asked for is mentioned.
The reference story follows from the words of the request, so that one prompt has one reference.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from minimax_m1.tasks.example import Example, Family, Message, Reply, assistant, matches, user
from minimax_m1.tasks.words import ADJECTIVES, NAMES, PLACES, TIMES, words

MOST_SENTENCES, _MOST_CHARACTERS = 12, 2000

CAST = words(
    """farmer teacher doctor sailor baker child king queen soldier painter singer driver hunter writer student
    horse dog cat bird fish fox wolf bear rabbit"""
)
THINGS = words("flower stone boat lamp book letter key box bell coat hat knife cup bottle apple")
FEELINGS = words("old young small happy tired brave warm strange quiet clever slow")
_LISTS = {"place": PLACES, "goal": PLACES, "thing": THINGS, "feeling": FEELINGS, "time": TIMES, "look": ADJECTIVES}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beat:
    """One step of a story: the ways to say it, and questions about it with the slot that answers them.

    {hero} {foe} {friend} are "the fox" or "Anna"; {a_hero} and so on are "a fox" or "Anna".
    """

    name: str
    lines: tuple[str, ...]
    asked: tuple[tuple[str, str], ...] = ()


_BEATS = (
    _Beat(
        name="live",
        lines=(
            "Once {a_hero} lived by the {place}.",
            "{a_hero} lived near the {place}.",
            "Long ago {a_hero} lived in the {place}.",
        ),
        asked=(("Where did {hero} live?", "place"), ("Who lived in or near the {place}?", "hero")),
    ),
    _Beat(name="be", lines=("{hero} was {feeling}.", "Everyone knew that {hero} was {feeling}.")),
    _Beat(
        name="wish",
        lines=("{hero} wanted {a_thing}.", "{hero} looked for {a_thing}.", "{hero} dreamed of {a_thing}."),
        asked=(("What did {hero} want?", "thing"), ("What was the wish of {hero}?", "thing")),
    ),
    _Beat(
        name="go",
        lines=("One {time} {hero} went to the {goal}.", "In the {time} {hero} walked to the {goal}."),
        asked=(("Where did {hero} go?", "goal"), ("Who went to the {goal}?", "hero")),
    ),
    _Beat(name="see", lines=("The {goal} was {look}.", "It was {look} there.")),
    _Beat(
        name="foe",
        lines=("But {a_foe} took the {thing}.", "But {a_foe} hid the {thing}.", "But {a_foe} kept the {thing}."),
        asked=(("Who had the {thing} first?", "foe"), ("Who did not give the {thing} away?", "foe")),
    ),
    _Beat(name="wait", lines=("{hero} sat down and waited.", "{hero} was sad.", "{hero} did not know what to do.")),
    _Beat(
        name="friend",
        lines=("Then {a_friend} came.", "Then {a_friend} saw {hero}.", "Then {a_friend} heard {hero}."),
    ),
    _Beat(
        name="help",
        lines=("{friend} helped {hero}.", "{friend} sang for {foe}.", "{friend} talked to {foe}."),
        asked=(("Who helped?", "friend"), ("Who was a friend of {hero}?", "friend")),
    ),
    _Beat(name="leave", lines=("{foe} ran away.", "{foe} laughed and went home.", "{foe} was not angry.")),
    _Beat(name="find", lines=("{hero} found the {thing}.", "{hero} got the {thing}.")),
    _Beat(name="joy", lines=("{hero} sang all {time}.", "{hero} laughed and ran home.")),
    _Beat(
        name="end",
        lines=(
            "In the end {hero} had the {thing}.",
            "So {hero} was happy in the end.",
            "And {hero} kept the {thing} for ever.",
        ),
    ),
)
_NEEDED = ("live", "wish", "foe", "end")
_REQUESTS = (
    "Tell me a story about {all}.",
    "Tell me a short story about {all}.",
    "Write a story about {all}.",
    "Write a short story with {all}.",
    "Please tell a story with {all}.",
    "I want to hear a story about {all}.",
    "Can you tell me a story about {all}?",
    "a story about {all}, please",
)
_SIZED = (
    "Tell me a story of {count} sentences about {all}.",
    "Write a story about {all} in {count} sentences.",
    "Tell a story with {all}. Use {count} sentences.",
    "I want a story about {all}, {count} sentences long.",
    "Write {count} sentences: a story about {all}.",
)
_ONE_WORD = ("Answer with one word.", "Say one word.", "One word, please.", "Give a one-word answer.", "In one word.")
_LAST = ("How does the story end? Say its last sentence.", "What is the last sentence of the story?")
_SIZE = re.compile(r"\b(\d{1,2}) sentences\b")


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a request for a story, perhaps with questions about what was told, or a given story with questions."""
    if rng.random() < 0.5:
        request = _request(rng, difficulty)
        told, chosen, slots = tell(request)
        sized = _SIZE.search(request)
        messages = [user(request), assistant(told, _plan(chosen) if sized else "")]
        count = rng.randint(1, 2) if rng.random() < 0.25 else 0
        messages += _questions(rng, told, chosen, slots, count)
    else:
        told, chosen, slots = tell(str(rng.random()), min(MOST_SENTENCES, 3 + difficulty - rng.randint(0, 1)))
        messages = _questions(rng, told, chosen, slots, rng.choices((1, 2, 3), (6, 3, 1))[0])
        first = messages[0]["content"]
        messages[0] = user(f"{told}\n\n{first}" if rng.random() < 0.8 else f"{first}\n\n{told}")
    turns = tuple(range(1, len(messages), 2))
    return Example(family=FAMILY.name, difficulty=difficulty, messages=tuple(messages), turns=turns)


def verify(example: Example, turn: int, reply: Reply) -> bool:
    """Grades an answer by its word, a told story by the grammar, the words asked for and the number of sentences."""
    request = example.messages[turn - 1]["content"]
    if " story " not in request or request in _LAST or "\n" in request or not _wanted(request):
        return matches(example, turn, reply)
    sized = _SIZE.search(request)
    if reply.tool_calls or len(reply.content) > _MOST_CHARACTERS:
        return False
    story = reply.content.strip()
    count = follows_grammar(story)
    right_size = count == int(sized[1]) if sized else 0 < count <= MOST_SENTENCES
    return right_size and _wanted(request) <= set(re.findall(r"\w+", story))


def tell(request: str, count: int = 0) -> tuple[str, list[_Beat], dict[str, str]]:
    """The story that a request asks for, its beats and who and what fills the slots; the request's words decide.

    Without `count` it has as many sentences as the request says, or else the more, the more is asked for.
    """
    rng = random.Random(request)
    asked = [word for word in re.findall(r"\w+", request) if word in _wanted(request)]
    people = [word for word in asked if word in CAST + NAMES]
    people += rng.sample([word for word in CAST if word not in people], 3)
    things = [word for word in asked if word in THINGS] or [rng.choice(THINGS)]
    places = [word for word in asked if word in PLACES]
    places += rng.sample([word for word in PLACES if word not in places], 2)
    slots = {name: rng.choice(choices) for name, choices in _LISTS.items()}
    slots |= dict(zip(("hero", "foe", "friend"), people, strict=False))
    slots |= {"thing": things[0], "place": places[0], "goal": places[1]}
    needed = {*_NEEDED}
    if slots["friend"] in asked:
        needed.add("friend")
    if slots["goal"] in asked:
        needed.add("go")
    sized = _SIZE.search(request)
    count = count or (int(sized[1]) if sized else min(MOST_SENTENCES, 2 * len(asked) + rng.randint(2, 4)))
    count = max(count, len(needed))
    while True:
        chosen = needed | set(rng.sample([b.name for b in _BEATS if b.name not in needed], count - len(needed)))
        if ("help" not in chosen or "friend" in chosen) and ("see" not in chosen or "go" in chosen):
            break
    beats = [beat for beat in _BEATS if beat.name in chosen]
    return " ".join(_say(rng.choice(beat.lines), slots) for beat in beats), beats, slots


def follows_grammar(story: str) -> int:
    """The number of sentences of a story that the grammar can tell, and 0 for any other text."""
    slots: dict[str, str] = {}
    last = -1
    seen: list[str] = []
    sentences = re.findall(r"[^.]+\.", story)
    if " ".join(" ".join(sentence.split()) for sentence in sentences) != story or len(sentences) > len(_BEATS):
        return 0
    for sentence in sentences:
        found = next(
            (
                (place, row)
                for place, beat in enumerate(_BEATS)
                for line in beat.lines
                if place > last and (row := _reads(line, sentence.strip(), slots)) is not None
            ),
            None,
        )
        if found is None:
            return 0
        last, slots = found
        seen.append(_BEATS[last].name)
    cast = [slots[role] for role in ("hero", "foe", "friend") if role in slots]
    whole = {*_NEEDED} <= {*seen} and ("friend" in seen or "help" not in seen) and ("go" in seen or "see" not in seen)
    return len(seen) if whole and len(set(cast)) == len(cast) and slots.get("place") != slots.get("goal") else 0


def _request(rng: random.Random, difficulty: int) -> str:
    """A hero, and the more difficult the more of a thing, a foe, a place, a friend, a second place, a size."""
    hero = rng.choice(NAMES) if rng.random() < 0.3 else _a(rng.choice(CAST))
    foe, friend = rng.sample([word for word in CAST if word not in hero.split()], 2)
    place, goal = rng.sample(PLACES, 2)
    extras = [_a(rng.choice(THINGS)), _a(foe), _a(place), _a(friend), _a(goal)]
    most = 1 + difficulty * 4 // 10
    told = [hero, *sorted(rng.sample(extras[:most], rng.randint(0 if difficulty < 3 else 1, most)), key=extras.index)]
    wanted = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    if difficulty >= 4 and rng.random() < 0.4:
        least = 4 + (len(told) > 3) + (len(told) > 4)
        count = rng.randint(max(5, least), min(MOST_SENTENCES, 3 + difficulty))
        return rng.choice(_SIZED).format(all=wanted, count=count)
    return rng.choice(_REQUESTS).format(all=wanted)


def _plan(beats: list[_Beat]) -> str:
    """The thought where the number of sentences is given: the beats, counted down to the last."""
    return " ".join(f"{len(beats) - number} {beat.name}" for number, beat in enumerate(beats))


def _questions(rng: random.Random, story: str, beats: list[_Beat], slots: dict[str, str], count: int) -> list[Message]:
    """Questions with one word as their answer, which the thought says behind the question; one may ask for the end."""
    found = [(question, slot) for beat in beats for question, slot in beat.asked]
    messages: list[Message] = []
    for question, slot in rng.sample(found, min(count, len(found))):
        if rng.random() < 0.1:
            messages += [user(rng.choice(_LAST)), assistant(re.findall(r"[^.]+\.", story)[-1].strip())]
            continue
        said = _say(question, slots)
        form = rng.choice(_ONE_WORD)
        thought = f"{said[0].lower()}{said[1:-1]}: {slots[slot]}"
        messages += [
            user(f"{said} {form}" if rng.random() < 0.7 else f"{form} {said}"),
            assistant(slots[slot], thought),
        ]
    return messages


def _wanted(request: str) -> set[str]:
    """The people, things and places that a request names."""
    return {word for word in re.findall(r"\w+", request) if word in CAST + NAMES + THINGS + PLACES}


def _a(word: str) -> str:
    return word if word in NAMES else f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _the(word: str) -> str:
    return word if word in NAMES else f"the {word}"


def _say(line: str, slots: dict[str, str]) -> str:
    people = {role: _the(slots[role]) for role in ("hero", "foe", "friend")}
    first = {f"a_{role}": _a(slots[role]) for role in ("hero", "foe", "friend", "thing")}
    said = line.format(**{**slots, **people, **first})
    return said[0].upper() + said[1:]


def _reads(line: str, sentence: str, slots: dict[str, str]) -> dict[str, str] | None:
    """The slots with those that a sentence of this line fills, or None where it is no such sentence."""
    words_of_line, words_of_sentence = line[:-1].split(), sentence[:-1].split()
    filled = dict(slots)
    rest = list(words_of_sentence)
    if not sentence.endswith(".") or not rest:
        return None
    for place, word in enumerate(words_of_line):
        if not rest:
            return None
        said = rest.pop(0)
        if place == 0 and said[:1].isupper() and said not in NAMES:
            said = said[0].lower() + said[1:]
        elif place == 0 and said not in NAMES:
            return None
        slot = word[1:-1].removeprefix("a_")
        if word[0] != "{":
            if said != (word if place else word[0].lower() + word[1:]):
                return None
            continue
        if slot in ("hero", "foe", "friend", "thing") and word != "{thing}" and said not in NAMES:
            article, said = said, rest.pop(0) if rest else ""
            if said in NAMES or (_a(said) if "a_" in word else _the(said)) != f"{article} {said}":
                return None
        if said not in _LISTS.get(slot, CAST + NAMES) or (slot in _FIXED and filled.get(slot, said) != said):
            return None
        filled[slot] = said
    return filled if not rest else None


_FIXED = words("hero foe friend thing place goal")
FAMILY = Family(name="stories", sample=sample, verify=verify)
