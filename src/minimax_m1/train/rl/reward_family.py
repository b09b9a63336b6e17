"""The task families' own verifiers as rewards, and the form of an answer as a small reward beside them.

In: the columns `example` and `turn`, which every row drawn from a family carries; rows without them are passed over.
Out: `family_reward` (1 or 0) and `format_reward` (1 or 0, weight 0.1), logged apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minimax_m1.tasks.example import Example, Reply, reference_of
from minimax_m1.tasks.families import is_right
from minimax_m1.train.rl.reward import Answers, Reward, Text, last_reply

_ENDS = (None, "stop", "tool_calls")  # of an answer that ended by itself; None: nobody told


def family_reward(weight: float = 1.0) -> Reward:
    """1 where the family's verifier accepts the reply, else 0."""

    def grade(answers: Answers) -> list[float | None]:
        return [_right(example, turn, reply_of(text)) for example, turn, text in _rows(answers)]

    return Reward(name="family", grade=grade, weight=weight, needs=frozenset({"example", "turn"}))


def format_reward(weight: float = 0.1) -> Reward:
    """1 for an answer in good form, right or wrong, else 0.

    It ended by itself (`finish_reasons`, where the column is there, says "stop" or "tool_calls"), says something or
    calls tools, each with an object of arguments, and thinks before where the reference thinks.
    """

    def grade(answers: Answers) -> list[float | None]:
        ends = answers.columns.get("finish_reasons", [None] * len(answers))
        return [
            None if example is None else float(_formed(example, turn, reply_of(text)) and end in _ENDS)
            for (example, turn, text), end in zip(_rows(answers), ends, strict=True)
        ]

    return Reward(name="format", grade=grade, weight=weight, needs=frozenset({"example", "turn"}))


def reply_of(text: Text) -> Reply:
    """The last reply of the assistant as verifiers take it; arguments of calls may be objects or JSON text."""
    if isinstance(text, str):
        return Reply(content=text)
    message = last_reply(text)
    functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return Reply(
        reasoning=str(message.get("reasoning_content") or ""),
        content=str(message.get("content") or ""),
        tool_calls=tuple((str(one["name"]), _written(one["arguments"])) for one in functions),
    )


def _rows(answers: Answers) -> list[tuple[Example | None, int, Text]]:
    """Rows may have columns of these names that mean something else."""
    none = [None] * len(answers)
    examples, turns = answers.columns.get("example", none), answers.columns.get("turn", none)
    rows = zip(examples, turns, answers.completions, strict=True)
    return [(example if isinstance(example, Example) else None, turn, text) for example, turn, text in rows]


def _right(example: Example | None, turn: int, reply: Reply) -> float | None:
    return None if example is None else float(is_right(example, turn, reply))


def _formed(example: Example, turn: int, reply: Reply) -> bool:
    says = bool(reply.content.strip()) or bool(reply.tool_calls)
    thinks = bool(reply.reasoning.strip()) or example.raw is not None or not reference_of(example, turn).reasoning
    return says and thinks and all(map(_is_object, (arguments for _, arguments in reply.tool_calls)))


def _written(arguments: str | Mapping[str, Any]) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):  # a model may write anything
        return False
