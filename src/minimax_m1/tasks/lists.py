"""Jobs on lists of words or numbers: reverse, sort, count, largest and smallest, take some, remove repeats, join.

In: the items of a list. Out: the answer, and the thought that leads to it: one line an item with its number,
"2) fox: cat, fox", where the result so far stands behind the colon.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from minimax_m1.tasks.job import Arguments, Job, Solved
from minimax_m1.tasks.words import NAMES, NOUNS, made_up

Items = tuple[str, ...] | tuple[int, ...]


def written(items: Sequence[str | int]) -> str:
    """A list as requests and answers have it: "cat, fox"."""
    return ", ".join(map(str, items))


def numbered(items: Items) -> str:
    """A line an item: "1) cat"."""
    return "\n".join(f"{place}) {item}" for place, item in enumerate(items, 1))


def reverse(items: Items) -> Solved:
    lines = [f"{place}) {items[place - 1]}: {written(items[place - 1 :][::-1])}" for place in range(len(items), 0, -1)]
    return "\n".join([numbered(items), *lines]), written(items[::-1])


def sort(items: tuple[int, ...]) -> Solved:
    """Each number is put into its place among those before it."""
    lines = [f"{place}) {item}: {written(sorted(items[:place]))}" for place, item in enumerate(items, 1)]
    return "\n".join(lines), written(sorted(items))


def largest(items: tuple[int, ...]) -> Solved:
    lines = [f"{place}) {item}: {max(items[:place])}" for place, item in enumerate(items, 1)]
    return "\n".join(lines), str(max(items))


def smallest(items: tuple[int, ...]) -> Solved:
    lines = [f"{place}) {item}: {min(items[:place])}" for place, item in enumerate(items, 1)]
    return "\n".join(lines), str(min(items))


def once(items: Sequence[str | int]) -> Solved:
    """Only the first of equal items stays."""
    lines: list[str] = []
    result: list[str | int] = []
    for place, item in enumerate(items, 1):
        seen = item in result
        if not seen:
            result.append(item)
        lines.append(f"{place}) {item} {'old' if seen else 'new'}: {written(result)}")
    return "\n".join(lines), written(result)


def count(items: Items, wanted: str | int) -> Solved:
    lines, total = [], 0
    for place, item in enumerate(items, 1):
        total += item == wanted
        lines.append(f"{place}) {item}={wanted} {'yes' if item == wanted else 'no'} {total}")
    return "\n".join(lines), str(total)


def first(items: Items, count: int) -> Solved:
    return "\n".join(_taken(items, 0, count)), written(items[:count])


def last(items: Items, count: int) -> Solved:
    left = len(items) - count
    lines = [numbered(items), f"{len(items)}-{count}={left}", *_taken(items, left, len(items))]
    return "\n".join(lines), written(items[left:])


def _taken(items: Items, start: int, stop: int) -> list[str]:
    return [f"{place + 1}) {items[place]}: {written(items[start : place + 1])}" for place in range(start, stop)]


def nth(items: Items, place: int) -> Solved:
    return f"{numbered(items)}\n{place}) {items[place - 1]}", str(items[place - 1])


def length(items: Items) -> Solved:
    return numbered(items), str(len(items))


def join(items: Items, sign: str) -> Solved:
    """No thought is needed: the items follow each other as they stand."""
    return "", sign.join(map(str, items))


def _size(rng: random.Random, difficulty: int) -> int:
    """3 items at difficulty 1 to 2, 6 to 8 at 10."""
    most = 3 + difficulty // 2
    return rng.randint(max(3, most - 2), most)


def _numbers(rng: random.Random, difficulty: int) -> tuple[int, ...]:
    """Different numbers of at most 1 digit at first, 2 from difficulty 3, 3 from difficulty 8."""
    below = 10 if difficulty < 3 else 100 if difficulty < 8 else 1000
    return tuple(rng.sample(range(below), _size(rng, difficulty)))


def _words(rng: random.Random, difficulty: int) -> tuple[str, ...]:
    size = _size(rng, difficulty)
    kind = rng.random()
    if kind < 0.5:
        return tuple(rng.sample(NOUNS, size))
    if kind < 0.7:
        return tuple(rng.sample(NAMES, size))
    return tuple({made_up(rng): None for _ in range(3 * size)})[:size]


def _items(rng: random.Random, difficulty: int) -> Items:
    return _numbers(rng, difficulty) if rng.random() < 0.4 else _words(rng, difficulty)


def _repetitive(rng: random.Random, difficulty: int) -> Items:
    items = _items(rng, difficulty)
    few = items[: -(-2 * len(items) // 3)]
    repeated = [rng.choice(few)]
    while len(repeated) < len(items):  # never twice in a row, which would hide the one being worked on
        repeated.append(rng.choice([item for item in few if item != repeated[-1]]))
    return tuple(repeated)  # type: ignore[return-value]  # all are of one kind


def _plain(rng: random.Random, difficulty: int) -> Arguments:
    return {"items": _items(rng, difficulty)}


def _only_numbers(rng: random.Random, difficulty: int) -> Arguments:
    return {"items": _numbers(rng, difficulty)}


def _with_repeats(rng: random.Random, difficulty: int) -> Arguments:
    return {"items": _repetitive(rng, difficulty)}


def _counted(rng: random.Random, difficulty: int) -> Arguments:
    items = _repetitive(rng, difficulty)
    return {"items": items, "wanted": rng.choice(items)}


def _some(rng: random.Random, difficulty: int) -> Arguments:
    items = _items(rng, difficulty)
    return {"items": items, "count": rng.randint(2, len(items) - 1)}


def _placed(rng: random.Random, difficulty: int) -> Arguments:
    items = _items(rng, difficulty)
    return {"items": items, "place": rng.randint(1, len(items))}


def _joined(rng: random.Random, difficulty: int) -> Arguments:
    return {"items": _words(rng, difficulty), "sign": rng.choice("-_+/")}


JOBS = (
    Job(
        name="reverse list",
        weight=2,
        draw=_plain,
        solve=reverse,
        prompts=(
            "Reverse the list: {items}",
            "Write this list backwards, with commas: {items}",
            "Turn the order of this list around and keep the commas: {items}",
            "List these from last to first, with commas: {items}",
            "reverse: {items}",
        ),
    ),
    Job(
        name="sort list",
        weight=3,
        draw=_only_numbers,
        solve=sort,
        prompts=(
            "Sort these numbers: {items}",
            "Sort the list from small to large, with commas: {items}",
            "Put these numbers in order, the smallest first, with commas: {items}",
            "Write these numbers from smallest to largest, with commas: {items}",
            "sort: {items}",
        ),
    ),
    Job(
        name="largest",
        draw=_only_numbers,
        solve=largest,
        prompts=(
            "What is the largest of these numbers? {items}",
            "Which number is the largest: {items}?",
            "Find the biggest number: {items}",
            "Which of these numbers is the greatest? {items}",
            "largest of {items}",
        ),
    ),
    Job(
        name="smallest",
        draw=_only_numbers,
        solve=smallest,
        prompts=(
            "What is the smallest of these numbers? {items}",
            "Which number is the smallest: {items}?",
            "Find the smallest number: {items}",
            "Which of these numbers is the lowest? {items}",
            "smallest of {items}",
        ),
    ),
    Job(
        name="once in list",
        weight=2,
        least=2,
        draw=_with_repeats,
        solve=once,
        prompts=(
            "Remove repeats from the list: {items}",
            "Remove the duplicates from this list and keep the order: {items}",
            "Write each item of this list only once, in the same order: {items}",
            "Drop what was there before, keep the commas: {items}",
            "remove duplicates: {items}",
        ),
    ),
    Job(
        name="count in list",
        weight=2,
        draw=_counted,
        solve=count,
        prompts=(
            "How many times is {wanted} in this list? {items}",
            "How often does {wanted} come in the list {items}?",
            "Count {wanted} in this list: {items}",
            "How many of these are {wanted}? {items}",
            "count {wanted}: {items}",
        ),
    ),
    Job(
        name="first items",
        draw=_some,
        solve=first,
        prompts=(
            "What are the first {count} items of this list? {items}",
            "Write the first {count} items, with commas: {items}",
            "Take the first {count} of the list: {items}",
            "Keep only the first {count} of these: {items}",
            "first {count} of {items}",
        ),
    ),
    Job(
        name="last items",
        draw=_some,
        solve=last,
        prompts=(
            "What are the last {count} items of this list? {items}",
            "Write the last {count} items, with commas: {items}",
            "Take the last {count} of the list: {items}",
            "Keep only the last {count} of these: {items}",
            "last {count} of {items}",
        ),
    ),
    Job(
        name="nth item",
        draw=_placed,
        solve=nth,
        prompts=(
            "What is item {place} of this list? {items}",
            "Which item has number {place} in this list? {items}",
            "Give me number {place} of the list: {items}",
            "Which one is in place {place}? {items}",
            "item {place} of {items}",
        ),
    ),
    Job(
        name="length of list",
        draw=_plain,
        solve=length,
        prompts=(
            "How many items does this list have? {items}",
            "How many items are in the list: {items}?",
            "Count the items: {items}",
            "How long is this list? Say how many items. {items}",
            "number of items: {items}",
        ),
    ),
    Job(
        name="join",
        draw=_joined,
        solve=join,
        prompts=(
            "Join these words with {sign} and no spaces: {items}",
            'Join with "{sign}" and without spaces: {items}',
            "Put {sign} between these words, without spaces: {items}",
            "Glue these words together with {sign}, no spaces: {items}",
            "join with {sign}, no spaces: {items}",
        ),
    ),
)
