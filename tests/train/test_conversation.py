"""Conversations as texts: what is said is learned once, thoughts included, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from minimax_m1.errors import DataError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.conversation import Text, conversation_texts


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, thought: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "reasoning_content": thought}


def learned(tokenizer: MiniMaxM1Tokenizer, text: Text) -> str:
    said = tokenizer.decode([token for token, mask in zip(*text, strict=True) if mask])
    assert isinstance(said, str)
    return said


def test_without_early_thoughts_there_is_one_text(tokenizer: MiniMaxM1Tokenizer) -> None:
    chat = [user("a"), assistant("b"), user("c"), assistant("e", "d"), user("f")]
    (text,) = conversation_texts(tokenizer, chat, None, (1, 3))
    assert text[0] == encode_chat(tokenizer, chat[:4], add_generation_prompt=False)
    assert learned(tokenizer, text) == "b<end_of_sentence><think>\nd\n</think>\n\ne<end_of_sentence>"


def test_an_early_thought_gets_a_text_of_its_own_and_no_turn_is_learned_twice(tokenizer: MiniMaxM1Tokenizer) -> None:
    chat = [user("a"), assistant("b"), user("c"), assistant("e", "d"), user("f"), assistant("h", "g")]
    early, late = conversation_texts(tokenizer, chat, None, (1, 3, 5))
    assert early[0] == encode_chat(tokenizer, chat[:4], add_generation_prompt=False)
    assert learned(tokenizer, early) == "b<end_of_sentence><think>\nd\n</think>\n\ne<end_of_sentence>"
    assert late[0] == encode_chat(tokenizer, chat, add_generation_prompt=False)
    assert learned(tokenizer, late) == "<think>\ng\n</think>\n\nh<end_of_sentence>"


def test_thoughts_of_one_tool_loop_stay_together(tokenizer: MiniMaxM1Tokenizer) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {}}}
    chat = [user("a"), {**assistant("", "b"), "tool_calls": [call]}, {"role": "tool", "content": "c"}]
    chat += [assistant("e", "d"), user("f"), assistant("g")]
    early, late = conversation_texts(tokenizer, chat, None, (1, 3, 5))
    assert "b\n</think>" in learned(tokenizer, early) and "d\n</think>" in learned(tokenizer, early)
    assert learned(tokenizer, late) == "g<end_of_sentence>"


def test_a_turn_that_is_not_learned_is_only_read(tokenizer: MiniMaxM1Tokenizer) -> None:
    chat = [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")]
    (text,) = conversation_texts(tokenizer, chat, None, (1, 5))
    assert text[0] == encode_chat(tokenizer, chat, add_generation_prompt=False)
    assert learned(tokenizer, text) == "b<end_of_sentence>f<end_of_sentence>"


def test_a_template_without_assistant_turns_is_refused(tokenizer: MiniMaxM1Tokenizer) -> None:
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    foreign = MiniMaxM1Tokenizer(tokenizer.backend, {"chat_template": plain, "eos_token": "<end_of_sentence>"})
    with pytest.raises(DataError, match="writes 0 assistant turns for 1 assistant messages"):
        list(conversation_texts(foreign, [user("a"), assistant("b")], None, (1,)))
