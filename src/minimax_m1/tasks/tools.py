"""Function calling: tool definitions with names never seen before, a request, the exact JSON call.

In: a generator of random numbers and a difficulty, which sets how many tools and parameters there may be.
Out: conversations whose graded turns are tool calls, the sentence after a tool's result, or a plain answer
where no tool fits. Arguments stand in the order of the request and have the types of the schema.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from minimax_m1.tasks import addition, talk
from minimax_m1.tasks.example import Example, Family, assistant, call, matches, user, with_system
from minimax_m1.tasks.words import ADJECTIVES, CITIES, NAMES, NOUNS, PLACES, TWO_WORD_CITIES, made_up, words

_VERBS = words(
    """get set find send make open close start stop read write check create delete update search book order play
    move copy list show save load turn add remove call print"""
)
_OBJECTS = (
    *words("weather time message file timer alarm price flight hotel email note event user light door song map"),
    *NOUNS,
)
_PARAMETERS = words(
    """city name count date day hour minutes title text color size id user path level mode limit start end
    amount age place item query unit speed active loud public force"""
)
_BY_NAME = (
    ("Call {tool} with {values}.", "{name} {value}", " and "),
    ("Call {tool} with {values}.", "{name} {value}", ", "),
    ("Call {tool} with {values}.", "{name}={value}", ", "),
    ("Use {tool}: {values}.", "{name} = {value}", ", "),
    ("Use {tool} with {values}.", "{name} {value}", " and "),
    ("Please run {tool} with {values}.", "{name} set to {value}", ", "),
    ("run {tool} with {values}", "{name} {value}", ", "),
    ("{tool}: {values}", "{name} {value}", ", "),
)
_BY_DESCRIPTION = (
    ("{tool} with {values}.", "{name} {value}", ", "),
    ("{tool} with {values}.", "{name} {value}", " and "),
    ("{tool}: {values}.", "{name} = {value}", ", "),
    ("Please {tool} with {values}.", "{name} {value}", ", "),
)
# Tools as people really write them: name, description, parameters, requests.
_EVERYDAY: tuple[tuple[str, str, dict[str, str], tuple[str, ...]], ...] = (
    (
        "get_weather",
        "Get the weather.",
        {"city": "string"},
        ("What is the weather in {city}?", "How is the weather in {city}?", "Get the weather in {city}."),
    ),
    (
        "get_time",
        "Get the time.",
        {"city": "string"},
        ("What time is it in {city}?", "Tell me the time in {city}.", "What is the time in {city}?"),
    ),
    (
        "set_timer",
        "Set a timer.",
        {"minutes": "integer"},
        ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes."),
    ),
    (
        "call_person",
        "Call a person.",
        {"name": "string"},
        ("Call {name}.", "Please call {name}.", "Can you call {name}?"),
    ),
    (
        "book_hotel",
        "Book a hotel.",
        {"city": "string", "nights": "integer"},
        ("Book a hotel in {city} for {nights} nights.", "I need a hotel in {city} for {nights} nights."),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    name: str
    description: str
    types: dict[str, str]
    requests: tuple[str, ...] = ()  # an everyday tool's own sentences

    @property
    def described_by_its_name(self) -> bool:
        """Whether a request in the description's words says the name too."""
        verb, _, noun = self.name.partition("_")
        return self.description.lower() == f"{verb} the {noun}."

    def definition(self, described: bool) -> dict[str, Any]:
        properties = {
            name: {"type": kind, "description": f"The {name.replace('_', ' ')}."} if described else {"type": kind}
            for name, kind in self.types.items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(self.types)}
        return {"name": self.name, "description": self.description, "parameters": parameters}


def sample(rng: random.Random, difficulty: int) -> Example:
    """Draws a request over 1 to 4 tools of 1 to 4 parameters."""
    tools = _toolbox(rng, rng.randint(1, min(4, 1 + difficulty)), min(4, 1 + difficulty))
    kind = rng.random()
    if kind < 0.08:
        plain = rng.random() < 0.5
        messages = talk.greeting(rng) if plain else addition.exchange(rng.randrange(10000), rng.randrange(1000), rng)
        turns: tuple[int, ...] = (1,)
    else:
        count = 2 if kind < 0.18 else 1
        requests, calls = zip(*(_request(rng, rng.choice(tools), place) for place in range(1, count + 1)), strict=True)
        messages = [user(" Then ".join(_join(requests))), {**assistant(""), "tool_calls": list(calls)}]
        turns = (1,)
        if count == 1 and rng.random() < 0.3:
            result, said = _result(rng)
            name = calls[0]["function"]["name"]
            messages.append({"role": "tool", "name": name, "content": result, "tool_call_id": calls[0]["id"]})
            messages.append(assistant(said))
            turns = (1, 3)
    described = rng.random() < 0.25
    example = Example(
        family=FAMILY.name,
        difficulty=difficulty,
        messages=tuple(messages),
        tools=tuple(tool.definition(described) for tool in tools),
        turns=turns,
    )
    return with_system(example, "You are a helpful assistant.") if rng.random() < 0.15 else example


def _join(requests: tuple[str, ...]) -> list[str]:
    """Full stops between the parts, a small letter after "Then"."""
    first, *rest = requests
    if not rest:
        return [first]
    return [first if first[-1] in ".?" else first + ".", *(part[0].lower() + part[1:] for part in rest)]


def _toolbox(rng: random.Random, count: int, most_parameters: int) -> list[_Tool]:
    """Tools with distinct names and distinct descriptions."""
    tools: list[_Tool] = []
    while len(tools) < count:
        tool = _everyday(rng) if rng.random() < 0.08 else _invented(rng, most_parameters)
        if all(tool.name != other.name and tool.description != other.description for other in tools):
            tools.append(tool)
    return tools


def _everyday(rng: random.Random) -> _Tool:
    name, description, types, requests = rng.choice(_EVERYDAY)
    return _Tool(name=name, description=description, types=types, requests=requests)


def _invented(rng: random.Random, most_parameters: int) -> _Tool:
    verb = made_up(rng) if rng.random() < 0.6 else rng.choice(_VERBS)
    noun = made_up(rng) if rng.random() < 0.6 else rng.choice(_OBJECTS)
    if rng.random() < 0.5:
        description = f"{verb.capitalize()} the {noun}."
    else:
        action = made_up(rng) if rng.random() < 0.5 else rng.choice(_VERBS)
        description = f"{action.capitalize()} the {rng.choice(ADJECTIVES)} {made_up(rng)}."
    types: dict[str, str] = {}
    for _ in range(rng.randint(1, most_parameters)):
        parameter = made_up(rng) if rng.random() < 0.5 else rng.choice(_PARAMETERS)
        if rng.random() < 0.1:
            parameter += "_" + rng.choice(_PARAMETERS)
        types[parameter] = rng.choices(("string", "integer", "boolean", "number"), (45, 30, 18, 7))[0]
    return _Tool(name=f"{verb}_{noun}", description=description, types=types)


def _request(rng: random.Random, tool: _Tool, index: int) -> tuple[str, dict[str, Any]]:
    """A request in words and the call it asks for."""
    names = list(tool.types)
    if tool.requests and rng.random() < 0.7:
        values = {name: _city(rng) if name == "city" else _value(rng, tool.types[name], plain=True) for name in names}
        written = {name: said for name, (said, _) in values.items()}
        request = rng.choice(tool.requests).format(**written)
        return request, call(index, tool.name, {name: value for name, (_, value) in values.items()})
    if rng.random() < 0.3:
        rng.shuffle(names)
    by_name = rng.random() < 0.75 or not tool.described_by_its_name
    frame, pair, between = rng.choice(_BY_NAME if by_name else _BY_DESCRIPTION)
    values = {name: _value(rng, tool.types[name]) for name in names}
    listed = between.join(pair.format(name=name, value=said) for name, (said, _) in values.items())
    wish = tool.description.rstrip(".")
    if frame.startswith("Please {"):
        wish = wish[0].lower() + wish[1:]
    request = frame.format(tool=tool.name if by_name else wish, values=listed)
    return request, call(index, tool.name, {name: value for name, (_, value) in values.items()})


def _city(rng: random.Random) -> tuple[str, str]:
    city = rng.choice(CITIES + TWO_WORD_CITIES) if rng.random() < 0.7 else made_up(rng).capitalize()
    return city, city


def _value(rng: random.Random, kind: str, plain: bool = False) -> tuple[str, str | int | float | bool]:
    """A value as the request writes it, and as JSON has it; `plain` keeps to what an everyday sentence can hold."""
    if kind == "boolean":
        said = rng.choice(("true", "false", "yes", "no"))
        return said, said in ("true", "yes")
    if kind == "integer":
        number = rng.randrange(10 ** rng.randint(1, 4)) if not plain else rng.randint(2, 99)
        number = -number if not plain and rng.random() < 0.15 else number
        return str(number), number
    if kind == "number":
        text = f"{rng.randrange(100)}.{rng.randint(1, 9)}"
        return text, float(text)
    style = rng.random()
    if plain or style < 0.3:
        word = rng.choice(CITIES + NAMES + NOUNS + PLACES) if not plain else rng.choice(NAMES)
    elif style < 0.8:
        word = made_up(rng)
        word = word.capitalize() if rng.random() < 0.2 else word
    else:
        word = rng.choice((rng.choice(TWO_WORD_CITIES), f"{made_up(rng)} {made_up(rng)}", f"the {rng.choice(NOUNS)}"))
        return f'"{word}"', word
    return (f'"{word}"', word) if not plain and rng.random() < 0.1 else (word, word)


def _result(rng: random.Random) -> tuple[str, str]:
    """What the tool answered, and what to say then."""
    if rng.random() < 0.2:
        reason = rng.choice(("not found", "no access", "timed out", f"unknown {rng.choice(NOUNS)}", made_up(rng)))
        return json.dumps({"error": reason}), f"The tool failed: {reason}."
    value: str | int = rng.randrange(10 ** rng.randint(1, 5)) if rng.random() < 0.6 else made_up(rng)
    return json.dumps({"result": value}) if rng.random() < 0.5 else str(value), f"The result is {value}."


FAMILY = Family(name="tools", sample=sample, verify=matches)
