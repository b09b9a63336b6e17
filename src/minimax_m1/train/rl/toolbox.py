"""The public methods of a user's class as tools: their definitions for the model, and calls of them with JSON.

In: a class whose methods have type hints and docstrings in Google's style, read as transformers' `get_json_schema`
reads them; then a call's name and arguments. Out: {name, description, parameters} each, or `Broken` with the line;
then the result as text, or "error: ..." for the model to read. Nothing here needs more than Python's own library.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from minimax_m1.train.rl.worker import Broken, first_line, line_of, told

_RESERVED = frozenset({"reset", "respond", "get_reward"})  # what we call, not the model
_NAMES = {
    int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null",
    list: "array", tuple: "array", dict: "object",
}  # fmt: skip
_KINDS: dict[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "null": (types.NoneType,),
    "array": (list,), "object": (dict,),
}  # fmt: skip
_SECTION = re.compile(r"^[ \t]*(Args|Returns|Raises|Yields|Examples?):[ \t]*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^([ \t]*)(\w+)(?:[ \t]*\([^)\n]*\))?:[ \t]*(.*(?:\n\1[ \t]+.*)*)", re.MULTILINE)

Schema = dict[str, Any]


def definitions(kind: type, path: str) -> list[Schema]:
    """A definition for each tool of the class, in the order in which they are written."""
    return [_definition(name, method, path) for name, method in _methods(kind)]


def call(world: object, tools: Mapping[str, Schema], name: str, arguments: Any) -> Any:
    """What the tool of `world` returns. Raises ValueError where there is no such tool or the arguments do not fit."""
    if name not in tools:
        raise ValueError(f"there is no tool {name!r}, there {'is' if len(tools) == 1 else 'are'} {', '.join(tools)}")
    parameters = tools[name]["parameters"]
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} must be an object, got {_short(arguments)}")
    for argument in parameters.get("required", ()):
        if argument not in arguments:
            raise ValueError(f"{name} needs {argument!r}")
    for argument, value in arguments.items():
        if argument not in parameters["properties"]:
            raise ValueError(f"{name} takes no {argument!r}, but {', '.join(parameters['properties']) or 'nothing'}")
        if not _fits(value, schema := parameters["properties"][argument]):
            raise ValueError(f"{argument} must be {_expected(schema)}, got {_short(value)}")
    return getattr(world, name)(**arguments)


def text_of(result: Any) -> str:
    """A tool's result as the model reads it: text as it is, all else as JSON, or as Python writes it."""
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(result)


def error_text(error: BaseException) -> str:
    """What the model reads of a tool that raised."""
    return f"error: {told(error) or type(error).__name__}"


def _methods(kind: type) -> list[tuple[str, Callable[..., Any]]]:
    names = dict.fromkeys(name for base in reversed(kind.__mro__[:-1]) for name in vars(base))
    public = [name for name in names if not name.startswith("_") and name not in _RESERVED]
    return [(name, member) for name in public if inspect.isroutine(member := getattr(kind, name))]


def _definition(name: str, method: Callable[..., Any], path: str) -> Schema:
    line = first_line(method, path)
    try:
        hints = get_type_hints(method)
        signature = inspect.signature(method)
        doc = inspect.getdoc(method)
    except Exception as error:  # hints are the user's expressions
        raise Broken(f"the tool {name}: {told(error)}", line_of(error, path) or line) from None
    if not doc:
        raise Broken(f"the tool {name} needs a docstring, which tells the model what it does", line)
    about, notes = _read(doc)
    properties, required = {}, []
    for index, one in enumerate(signature.parameters.values()):
        if index == 0 and one.name == "self":
            continue
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise Broken(f"the tool {name} must take its arguments by name, it has {one}", line)
        if one.name not in hints:
            raise Broken(f"the argument {one.name!r} of the tool {name} needs a type hint", line)
        try:
            schema = _schema(hints[one.name])
        except TypeError as error:
            raise Broken(f"the argument {one.name!r} of the tool {name}: {error}", line) from None
        properties[one.name] = schema | ({"description": notes[one.name]} if one.name in notes else {})
        if one.default is one.empty:
            required.append(one.name)
    parameters = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    return {"name": name, "description": about, "parameters": parameters}


def _read(doc: str) -> tuple[str, dict[str, str]]:
    """What stands before the first section of a docstring, and what "Args:" says of each argument."""
    about, *sections = _SECTION.split(doc.strip())
    named = dict(zip(sections[::2], sections[1::2], strict=True))
    notes = {name: " ".join(note.split()) for _, name, note in _ARGUMENT.findall(named.get("Args", ""))}
    return about.strip(), notes


def _schema(hint: Any) -> Schema:
    """A type hint as JSON schema. Raises TypeError for what JSON cannot hold."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is None and hint in _NAMES:
        return {"type": _NAMES[hint]}
    if origin in (Union, types.UnionType):
        return _union(inner)
    if origin is Literal:
        names = list(dict.fromkeys(_NAMES.get(type(value), "") for value in inner))
        if set(names) <= {"integer", "number", "string", "boolean", "null"}:
            return {"type": names[0] if len(names) == 1 else names, "enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0])}
    if origin is tuple and ... not in inner:
        return {"type": "array", "prefixItems": [_schema(one) for one in inner]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    raise TypeError(f"{getattr(hint, '__name__', hint)} is nothing that JSON can hold")


def _union(inner: Sequence[Any]) -> Schema:
    kinds = [_schema(one) for one in inner if one is not type(None)]
    if len(kinds) == 1:
        schema = kinds[0]
    elif all(kind.keys() == {"type"} and isinstance(kind["type"], str) for kind in kinds):
        names = sorted({kind["type"] for kind in kinds})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": kinds}
    return schema | ({"nullable": True} if type(None) in inner else {})


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a JSON value is what one of our own schemas says."""
    if value is None and schema.get("nullable"):
        return True
    if "anyOf" in schema:
        return any(_fits(value, kind) for kind in schema["anyOf"])
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if isinstance(value, bool):  # which Python takes for an integer
            if "boolean" not in names:
                return False
        elif not any(isinstance(value, _KINDS[name]) for name in names):
            return False
    if "enum" in schema:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in schema["enum"])
    if "prefixItems" in schema:
        items = schema["prefixItems"]
        return len(value) == len(items) and all(map(_fits, value, items))
    if "items" in schema:
        return all(_fits(one, schema["items"]) for one in value)
    if "additionalProperties" in schema:
        return all(_fits(one, schema["additionalProperties"]) for one in value.values())
    return True


def _expected(schema: Schema) -> str:
    plain = {key: value for key, value in schema.items() if key != "description"}
    if plain.keys() == {"type"} and isinstance(plain["type"], str):
        return str(plain["type"])
    return f"one of {json.dumps(plain['enum'])}" if "enum" in plain else json.dumps(plain)


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 80 else shown[:79] + "…"
