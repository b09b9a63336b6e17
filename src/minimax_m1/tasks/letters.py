"""Jobs on the letters of one word: reverse, sort, count, shift, take some, spell.

In: a word. Out: the answer, and the thought that leads to it: the word spelled with numbers, "1c 2a 3t", then one
line a letter that says the number and the letter again, what is done with it, and the result so far.
"""

from __future__ import annotations

import random

from minimax_m1.tasks.job import Arguments, Job, Solved
from minimax_m1.tasks.words import NOUNS, syllable

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def spelled(word: str) -> str:
    """The word and its numbered letters: "cat: 1c 2a 3t"."""
    return f"{word}: " + " ".join(f"{place}{letter}" for place, letter in enumerate(word, 1))


def reverse(word: str) -> Solved:
    lines, result = [spelled(word)], ""
    for place in range(len(word), 0, -1):
        result += word[place - 1]
        lines.append(f"{place}{word[place - 1]} {result}")
    return "\n".join(lines), result


def first(word: str, count: int) -> Solved:
    return "\n".join([spelled(word), *_taken(word, 0, count)]), word[:count]


def last(word: str, count: int) -> Solved:
    left = len(word) - count
    lines = [spelled(word), f"{len(word)}-{count}={left}", *_taken(word, left, len(word))]
    return "\n".join(lines), word[left:]


def _taken(word: str, start: int, stop: int) -> list[str]:
    return [f"{place + 1}{word[place]} {word[start : place + 1]}" for place in range(start, stop)]


def capitals(word: str) -> Solved:
    lines = [f"{place}{letter} {word[:place].upper()}" for place, letter in enumerate(word, 1)]
    return "\n".join([spelled(word), *lines]), word.upper()


def shift(word: str, count: int) -> Solved:
    """Each letter replaced by the one `count` further in the alphabet, where a follows z."""
    lines, result = [spelled(word)], ""
    for place, letter in enumerate(word, 1):
        moved = ALPHABET[(ALPHABET.index(letter) + count) % 26]
        result += moved
        lines.append(f"{place}{letter}+{count}={moved} {result}")
    return "\n".join(lines), result


def sort(word: str) -> Solved:
    """Each letter is put into its place among those before it."""
    lines = [f"{place}{letter}: {' '.join(sorted(word[:place]))}" for place, letter in enumerate(word, 1)]
    return "\n".join([spelled(word), *lines]), " ".join(sorted(word))


def once(word: str) -> Solved:
    """Only the first of equal letters stays."""
    lines, result = [spelled(word)], ""
    for place, letter in enumerate(word, 1):
        seen = letter in result
        result += "" if seen else letter
        lines.append(f"{place}{letter} {'old' if seen else 'new'} {result}")
    return "\n".join(lines), result


def count(word: str, letter: str) -> Solved:
    lines, total = [spelled(word)], 0
    for place, here in enumerate(word, 1):
        total += here == letter
        lines.append(f"{place}{here}={letter} {'yes' if here == letter else 'no'} {total}")
    return "\n".join(lines), str(total)


def nth(word: str, place: int) -> Solved:
    return f"{spelled(word)}\n{place}{word[place - 1]}", word[place - 1]


def length(word: str) -> Solved:
    return spelled(word), str(len(word))


def spell(word: str) -> Solved:
    return spelled(word), "-".join(word)


def _word(rng: random.Random, difficulty: int, pool: int = 12) -> str:
    """A noun, or a made-up word of `pool` kinds of syllables; 3 letters at difficulty 1, 9 to 12 at 10."""
    most = 2 + difficulty
    size = rng.randint(max(3, most - 3), most)
    nouns = [noun for noun in NOUNS if len(noun) == size]
    if nouns and rng.random() < 0.2:
        return rng.choice(nouns)
    syllables = [syllable(rng) for _ in range(pool)]
    word, before = "", ""
    while len(word) < size:  # two equal syllables in a row would hide which of them is being worked on
        before = rng.choice([each for each in syllables if each != before] or syllables)
        word += before
    return word[:size]


def _plain(rng: random.Random, difficulty: int) -> Arguments:
    return {"word": _word(rng, difficulty)}


def _repetitive(rng: random.Random, difficulty: int) -> Arguments:
    return {"word": _word(rng, difficulty, 3)}


def _counted(rng: random.Random, difficulty: int) -> Arguments:
    word = _word(rng, difficulty, 3)
    return {"word": word, "letter": rng.choice(word if rng.random() < 0.85 else ALPHABET)}


def _shifted(rng: random.Random, difficulty: int) -> Arguments:
    return {"word": _word(rng, max(1, difficulty - 1)), "count": rng.randint(1, 3 if difficulty < 6 else 5)}


def _some(rng: random.Random, difficulty: int) -> Arguments:
    word = _word(rng, difficulty)
    return {"word": word, "count": rng.randint(2, len(word) - 1)}


def _placed(rng: random.Random, difficulty: int) -> Arguments:
    word = _word(rng, difficulty)
    return {"word": word, "place": rng.randint(1, len(word))}


JOBS = (
    Job(
        name="reverse",
        weight=3,
        draw=_plain,
        solve=reverse,
        prompts=(
            "Reverse the word {word}.",
            "Write {word} backwards.",
            'Reverse "{word}".',
            "What is {word} spelled backwards?",
            "Turn the word {word} around.",
            "Please write the word {word} from back to front.",
            "reverse {word}",
        ),
    ),
    Job(
        name="sort",
        weight=2,
        draw=_plain,
        solve=sort,
        prompts=(
            "Sort the letters of {word}. Put spaces between them.",
            "Sort the letters of {word} by the alphabet, with spaces between them.",
            'Put the letters of "{word}" in order from a to z, with spaces between them.',
            "Write the letters of {word} in alphabetical order with spaces.",
            "Order the letters of {word} alphabetically and put a space between them.",
            "sort the letters of {word} with spaces",
        ),
    ),
    Job(
        name="once",
        weight=2,
        least=2,
        draw=_repetitive,
        solve=once,
        prompts=(
            "Remove repeated letters from {word}.",
            "Write {word} without repeated letters.",
            "Keep each letter of {word} only where it comes first.",
            'Drop every letter of "{word}" that was there before.',
            "Write each letter of {word} only once, in the same order.",
            "remove the repeated letters of {word}",
        ),
    ),
    Job(
        name="count",
        weight=3,
        draw=_counted,
        solve=count,
        prompts=(
            "How many times is the letter {letter} in {word}?",
            "How often does the letter {letter} come in {word}?",
            "Count the letter {letter} in {word}.",
            'How many "{letter}" are in "{word}"?',
            "How many {letter}'s does the word {word} have?",
            "count {letter} in {word}",
        ),
    ),
    Job(
        name="shift",
        weight=2,
        least=3,
        draw=_shifted,
        solve=shift,
        prompts=(
            "Shift each letter of {word} by {count} in the alphabet.",
            "Move each letter of {word} {count} forward in the alphabet.",
            "Write {word} in a Caesar code with shift {count}.",
            'Encode "{word}" with a Caesar shift of {count}.',
            "Caesar shift by {count}: {word}",
            "Shift the word {word} by {count} letters; a comes after z.",
        ),
    ),
    Job(
        name="first",
        draw=_some,
        solve=first,
        prompts=(
            "What are the first {count} letters of {word}?",
            "Write the first {count} letters of {word}.",
            "Take the first {count} letters of {word}.",
            'Give me the first {count} letters of "{word}".',
            "first {count} letters of {word}",
        ),
    ),
    Job(
        name="last",
        draw=_some,
        solve=last,
        prompts=(
            "What are the last {count} letters of {word}?",
            "Write the last {count} letters of {word}.",
            "Take the last {count} letters of {word}.",
            'Give me the last {count} letters of "{word}".',
            "last {count} letters of {word}",
        ),
    ),
    Job(
        name="nth",
        draw=_placed,
        solve=nth,
        prompts=(
            "What is letter {place} of {word}?",
            "Which letter is number {place} in {word}?",
            "Which letter does {word} have in place {place}?",
            'Give me letter number {place} of "{word}".',
            "letter {place} of {word}",
        ),
    ),
    Job(
        name="length",
        draw=_plain,
        solve=length,
        prompts=(
            "How many letters does {word} have?",
            "How many letters are in {word}?",
            "How long is the word {word}? Say how many letters.",
            'Count the letters of "{word}".',
            "How many letters has the word {word}?",
        ),
    ),
    Job(
        name="spell",
        draw=_plain,
        solve=spell,
        prompts=(
            "Spell {word} with dashes.",
            "Spell the word {word}, with dashes between the letters.",
            'Write the letters of "{word}" with a dash between them.',
            "How do you spell {word}? Put dashes between the letters.",
            "spell {word} with dashes",
        ),
    ),
    Job(
        name="capitals",
        draw=_plain,
        solve=capitals,
        prompts=(
            "Write {word} in capital letters.",
            "Write the word {word} in upper case.",
            'Make all letters of "{word}" big.',
            "Put {word} into capital letters.",
            "{word} in capital letters, please.",
        ),
    ),
)
