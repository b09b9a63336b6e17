"""Answers of the actor as rewards read them.

In: `Answer`s. Out: `Answers`: prompts, completions, the rows' columns and what is known of each answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minimax_m1.tasks.example import Example, reference_of
from minimax_m1.train.rl.actor import Answer
from minimax_m1.train.rl.reward import Answers

KNOWN = ("completion_ids", "finish_reasons", "reasoning", "tool_calls", "environment_reward")  # columns of answers


def as_answers(answers: Sequence[Answer]) -> Answers:
    """Answers as rewards read them: rows' columns, `answer` (what a family's reference says) and those of `KNOWN`."""
    rows = [{**_reference(answer.prompt.columns), **answer.prompt.columns} for answer in answers]
    names = dict.fromkeys(name for row in rows for name in row)
    replies = [answer.added[-1] if answer.added else {} for answer in answers]
    return Answers(
        prompts=[answer.prompt.asked for answer in answers],
        completions=[answer.completion for answer in answers],
        columns={
            **{name: [row.get(name) for row in rows] for name in names},
            "completion_ids": [answer.ids[len(answer.prompt.ids) :] for answer in answers],
            "finish_reasons": [answer.finish.value for answer in answers],
            "reasoning": [reply.get("reasoning_content", "") for reply in replies],
            "tool_calls": [reply.get("tool_calls", []) for reply in replies],
            "environment_reward": [answer.reward for answer in answers],
        },
    )


def _reference(columns: Mapping[str, Any]) -> dict[str, Any]:
    example = columns.get("example")
    if not isinstance(example, Example):
        return {}
    if example.raw is not None:
        return {"answer": example.raw.rpartition("=")[2].strip()}
    return {"answer": reference_of(example, columns["turn"]).content}
