"""`GuideMaker`: the one door to guided replies, kept by whoever owns a model and its tokenizer.

In: what a request asks of its reply: a form, tools, a budget for its thought. Out: a guide over ids for that one
reply, which the engine obeys, or None where nothing is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minimax_m1.errors import RequestError
from minimax_m1.text.answer import AnswerGuide, CallGuide, GrammarGuide
from minimax_m1.text.grammar import (
    Entries,
    call_form,
    call_format,
    choice_form,
    compiled,
    either_form,
    grammar_form,
    json_form,
    regex_form,
)
from minimax_m1.text.lexicon import Lexicon, Tag
from minimax_m1.text.messages import checked_tools
from minimax_m1.text.thinking import ThinkingGuide

if TYPE_CHECKING:
    from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


class GuideMaker:
    """Makes guides for a model of `vocab_size` ids; what the tokenizer's ids spell is worked out at the first one.

    Raises:
        TokenizerError: the tokenizer does not fit the model, or names no end of sentence.
    """

    def __init__(self, tokenizer: MiniMaxM1Tokenizer, vocab_size: int) -> None:
        self._lexicon = Lexicon(tokenizer, vocab_size)
        self._calls = call_format(tokenizer.chat_template)
        self._tag: Tag | None = None

    def guide(
        self,
        *,
        json: str | Mapping[str, Any] | None = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | None = None,
        json_object: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        strict_auto: bool = False,
        thinking: bool = True,
        thinking_budget: int | None = None,
    ) -> AnswerGuide | ThinkingGuide | None:
        """A guide for one reply; one of the first five fields at most is the form of its answer.

        `tool_choice` is "auto", "none", "required" or a tool's name; the last two make the answer a block of calls.
        With "auto" a form holds for the answer that calls nothing; without one the answer is free, and
        `strict_auto` sees to it that a block of calls, once opened, is a valid one. `thinking` says whether a thought
        may come first, `thinking_budget` its most tokens.

        Raises:
            RequestError: the form or a tool cannot be followed; `param` is "structured_outputs", "tools" or
                "tool_choice".
        """
        form = _form(json, regex, choice, grammar, json_object)
        answer = self._answer(form, checked_tools(tools), tool_choice, parallel_tool_calls, strict_auto)
        if thinking and (answer or thinking_budget is not None):
            return ThinkingGuide(self._lexicon, answer, thinking_budget)
        return answer

    def _answer(
        self, form: Entries | None, tools: list[dict[str, Any]] | None, tool_choice: str, several: bool, strict: bool
    ) -> AnswerGuide | None:
        if tool_choice == "none" or (tool_choice == "auto" and not tools):
            tools = None
        elif tool_choice not in ("auto", "required"):
            tools = [tool for tool in tools or () if tool["name"] == tool_choice]
            if not tools:
                raise RequestError(
                    f"tool_choice names {tool_choice!r}, which is none of the tools", param="tool_choice"
                )
        elif not tools:
            raise RequestError("tool_choice is required and there are no tools", param="tool_choice")
        if tools is None:
            return None if form is None else self._held(form, "structured_outputs")
        if tool_choice != "auto":
            return self._held(self._call_form(tools, several), "tools")
        if form is not None:
            self._held(form, "structured_outputs")  # tells whose fault it is, if it is one
            return self._held(either_form(form, self._call_form(tools, several)), "tools")
        if not strict:
            return None
        if self._tag is None:
            self._tag = Tag(self._calls.tag, self._lexicon)
        calls = self._held(self._call_form(tools, several, opened=True), "tools")
        return CallGuide(self._lexicon, self._tag, calls)

    def _call_form(self, tools: list[dict[str, Any]], several: bool, *, opened: bool = False) -> Entries:
        return call_form(self._lexicon, self._calls, tools, opened=opened, several=several)

    def _held(self, entries: Entries, param: str) -> GrammarGuide:
        return GrammarGuide(self._lexicon, compiled(self._lexicon, entries, param, param))


def _form(
    json: str | Mapping[str, Any] | None,
    regex: str | None,
    choice: Sequence[str] | None,
    grammar: str | None,
    json_object: bool,
) -> Entries | None:
    """The one form that is asked for, or None."""
    given = sum(value is not None for value in (json, regex, choice, grammar)) + json_object
    if given > 1:
        raise RequestError(
            f"a reply has at most one of json, regex, choice, grammar and json_object, got {given}",
            param="structured_outputs",
        )
    if json is not None:
        return json_form(json)
    if regex is not None:
        return regex_form(regex)
    if choice is not None:
        return choice_form(choice)
    if grammar is not None:
        return grammar_form(grammar)
    return json_form({"type": "object"}) if json_object else None
