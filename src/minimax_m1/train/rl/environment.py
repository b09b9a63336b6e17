"""Environments: what a model that is being trained talks to, one world a conversation, over as many turns as it takes.

In: the columns of a prompt's row, then the conversation after each of the model's replies. Out: messages that answer
it, which are tool results or what a user says next and are no part of the loss, and at the end a reward.
Those of a user's Python file are made in `environment_file.py`; `turns.py` writes their messages as ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minimax_m1.text.messages import Message


class EnvironmentFault(Exception):
    """An environment failed and with it one conversation, which has no reward; one sentence, with file and line.

    Conversations that fail in one way say it in the same words, so that it need be told only once.
    """


class Environment(Protocol):
    """The world of one conversation. After an EnvironmentFault it raises that again, whatever is asked of it."""

    def respond(self, messages: Sequence[Message]) -> Sequence[Message]:
        """What comes after the model's reply, the last of `messages`: tool and user messages; () is the end.

        Raises:
            EnvironmentFault: the user's code failed or did not return.
        """
        ...

    def reward(self) -> float | None:
        """What the conversation was worth, None where nothing is defined; the world is closed after it.

        Raises:
            EnvironmentFault: the user's code failed or did not return, or gave no number within ±1e9.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """Where conversations get their worlds.

    `tools` are definitions for the model, bare {name, description, parameters}. `start` makes the world of one
    conversation from the columns of its row and raises EnvironmentFault like the rest. `needs` are the columns
    without which it cannot, `place` is where a user may look for it. `close` ends all worlds.
    """

    name: str
    tools: tuple[dict[str, Any], ...]
    start: Callable[[Mapping[str, Any]], Environment]
    needs: frozenset[str] = frozenset()
    place: str | None = None
    close: Callable[[], None] = lambda: None
