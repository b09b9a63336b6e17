"""Forms that a reply can be held to, as grammars for llguidance.

In: what a caller asks for: a JSON schema, a regular expression, choices, Lark or GBNF text, tool definitions.
Out: lists of llguidance's grammar entries, of which the first may name the others, and `compiled`, which makes a
matcher of them. Whatever cannot be followed is a RequestError with llguidance's reason in one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, grammar_from

from minimax_m1.errors import RequestError
from minimax_m1.text.lexicon import Lexicon
from minimax_m1.text.vocabulary import FUNCTION_CALL, TOOL_CALLS, TOOL_CALLS_END

Entries = list[dict[str, Any]]

MOST_TEXT = 1 << 17  # characters of a form; llguidance has limits of its own for what grows out of them

# JSON as the chat template writes it, on one line, so that most of what is not a value is forced.
_JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_PARAM = "structured_outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a block of calls is written: the tag, then `head`, then a line a call, then the end."""

    tag: str
    head: str
    before: str  # of a line, where {name} is the name, in quotes if `quoted`
    after: str
    end: str
    quoted: bool


def call_format(template: str) -> CallFormat:
    """Text-01's for its chat template, M1's for any other."""
    if "function_setting=functions" in template:
        return CallFormat(
            tag=FUNCTION_CALL, head="```typescript\n", before="functions.{name}(", after=")\n", end="```", quoted=False
        )
    before = '{{"name": {name}, "arguments": '
    return CallFormat(tag=TOOL_CALLS, head="\n", before=before, after="}\n", end=TOOL_CALLS_END, quoted=True)


def json_form(schema: str | Mapping[str, Any]) -> Entries:
    """JSON that a schema allows."""
    text = schema if isinstance(schema, str) else _dumped(schema, "structured_outputs.json", _PARAM)
    _measured(text, "structured_outputs.json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused("structured_outputs.json", str(error), _PARAM) from None
    if not isinstance(value, dict):
        raise _refused("structured_outputs.json", "a schema must be an object", _PARAM)
    return [_schema_entry("reply", value)]


def regex_form(regex: str) -> Entries:
    """Text that a regular expression matches whole."""
    grammar = LLMatcher.grammar_from_regex(_measured(regex, "structured_outputs.regex"))
    return [{"name": "reply", "lark_grammar": json.loads(grammar)["grammars"][0]["lark_grammar"]}]


def choice_form(choice: Sequence[str]) -> Entries:
    """One of some texts."""
    if isinstance(choice, str) or not choice or not all(isinstance(text, str) for text in choice):
        raise _refused("structured_outputs.choice", "it must be a list of at least one string", _PARAM)
    _measured("".join(choice), "structured_outputs.choice")
    return [{"name": "reply", "lark_grammar": "start: " + " | ".join(map(json.dumps, choice))}]


def grammar_form(grammar: str) -> Entries:
    """Text that a Lark or GBNF grammar derives."""
    try:
        lark = grammar_from("grammar", _measured(grammar, "structured_outputs.grammar"))
    except ValueError as error:
        raise _refused("structured_outputs.grammar", str(error), _PARAM) from None
    return [{"name": "reply", "lark_grammar": lark}]


def call_form(
    lexicon: Lexicon, form: CallFormat, tools: Sequence[Mapping[str, Any]], *, opened: bool, several: bool
) -> Entries:
    """A block of calls of these tools; `opened` leaves out its tag, `several` allows more than one call.

    Raises:
        RequestError: a tool's parameters are no schema of an object, or cannot be followed.
    """
    lines, schemas = [], []
    for i, tool in enumerate(tools):
        name = json.dumps(tool["name"], ensure_ascii=False) if form.quoted else tool["name"]
        before = json.dumps(form.before.format(name=name))
        lines.append(f"call_{i}: {before} @arguments_{i} {json.dumps(form.after)}")
        schemas.append(_schema_entry(f"arguments_{i}", _parameters(tool, i)))
    opening = "" if opened else _tag(lexicon, form.tag)
    rules = [
        f"start: {opening} {json.dumps(form.head)} calls {_tag(lexicon, form.end)}",
        "calls: call | calls call" if several else "calls: call",
        "call: " + " | ".join(f"call_{i}" for i in range(len(lines))),
        *lines,
    ]
    entries = [{"name": "reply", "lark_grammar": "\n".join(rules)}, *schemas]
    if lexicon.matcher(entries).is_error():
        for tool, schema in zip(tools, schemas, strict=True):  # llguidance does not say which of them it is
            compiled(lexicon, [schema], f"the parameters of tool {tool['name']!r}", "tools")
    return entries


def either_form(reply: Entries, calls: Entries) -> Entries:
    """A form or a block of calls."""
    (answer,), (block, *arguments) = reply, calls
    start = {"name": "reply", "lark_grammar": "start: @answer | @block"}
    return [start, {**answer, "name": "answer"}, {**block, "name": "block"}, *arguments]


def compiled(lexicon: Lexicon, entries: Entries, what: str, param: str) -> LLMatcher:
    """A matcher at the start of a grammar that has at least one text; raises RequestError in the name of `what`."""
    matcher = lexicon.matcher(entries)
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds out whether any text fits, and what is too much for one step
    if matcher.is_error():
        raise _refused(what, matcher.get_error(), param)
    return matcher


def _schema_entry(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "json_schema": {**schema, "x-guidance": _JSON_STYLE}}


def _parameters(tool: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The schema of a tool's arguments: none at all where it names none."""
    where = f"tools[{index}].parameters"
    schema = tool.get("parameters")
    if schema is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise RequestError(f"{where} must be a JSON schema of an object", param="tools")
    text = _dumped(schema, where, "tools")
    if len(text) > MOST_TEXT:
        raise RequestError(f"{where} has {len(text)} characters, at most {MOST_TEXT} are read", param="tools")
    return {"type": "object", **schema}


def _tag(lexicon: Lexicon, name: str) -> str:
    """A tag in Lark: its own token where it has one, else its text."""
    id = lexicon.tokenizer.added_tokens.get(name)
    return json.dumps(name) if id is None else f"<[{id}]>"


def _dumped(schema: Mapping[str, Any], where: str, param: str) -> str:
    try:
        return json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(where, str(error), param) from None


def _measured(text: str, where: str) -> str:
    if not isinstance(text, str):
        raise _refused(where, f"it must be text, got {type(text).__name__}", _PARAM)
    if len(text) > MOST_TEXT:
        raise RequestError(f"{where} has {len(text)} characters, at most {MOST_TEXT} are read", param=_PARAM)
    return text


def _refused(what: str, reason: str, param: str) -> RequestError:
    """llguidance tells its reason in several lines; one of them says it."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()] or ["no reason known"]
    said = next((line.removeprefix("error:").strip() for line in lines if line.startswith("error:")), lines[0])
    if said.startswith("NoExtension"):
        said = "no text at all fits it"
    said = said if len(said) <= 160 else said[:157] + "..."
    return RequestError(f"{what} cannot be followed: {said}", param=param)
