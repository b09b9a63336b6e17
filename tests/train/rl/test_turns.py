"""Follow-ups as ids: with the ids that were sampled they say exactly what the chat template would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.errors import TokenizerError
from minimax_m1.text.chat import chat_template, encode_chat
from minimax_m1.text.reply import parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import BOS, EOS, FUNCTION_CALL, UNK
from minimax_m1.train.rl.turns import follow_up

TEMPLATE = Path(__file__).parents[2] / "text" / "data" / "published_chat_template.jinja"
TOOLS = [{"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}]
FORGETS = " and loop.index0 > ns.last_user"  # where the template drops the thoughts before the last user message


def with_template(tokenizer: MiniMaxM1Tokenizer, template: str) -> MiniMaxM1Tokenizer:
    config = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "chat_template": template}
    return MiniMaxM1Tokenizer(tokenizer.backend, config)


@pytest.fixture(scope="module", params=["nano", "published"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MiniMaxM1Tokenizer:
    """nano's own, and one of the published kind, in which the tags of M1 are plain text."""
    if request.param == "nano":
        return MiniMaxM1Tokenizer.from_pretrained("nano")
    path = tmp_path_factory.mktemp("published") / "merges.txt"
    path.write_text("#version: 0.2\nt h\nth e\nĠ a\n< /\nt o\nto o\n", "utf-8")
    specials = {name: 1000 + n for n, name in enumerate((BOS, EOS, UNK, FUNCTION_CALL))}
    made = MiniMaxM1Tokenizer.from_merges(path, specials=specials)
    return with_template(made, TEMPLATE.read_text("utf-8"))


@pytest.fixture(scope="module")
def remembering(kind: MiniMaxM1Tokenizer) -> MiniMaxM1Tokenizer:
    """The same tokenizer with a template that keeps every thought."""
    assert FORGETS in chat_template()
    return with_template(kind, chat_template().replace(FORGETS, ""))


words = st.text(alphabet="ab 7é\n{}<", min_size=1, max_size=12)
hostile = st.lists(st.one_of(words, st.sampled_from([BOS, EOS, "<think>", "</tool_calls>", "ai name=x\n"])), max_size=4)
texts = hostile.map("".join)
plain = st.text(alphabet="ab 7é", min_size=1, max_size=12).map(lambda text: f"x{text}x")
calls = st.lists(st.sampled_from(["add", "see"]).map(lambda name: {"name": name, "arguments": {"a": 1}}), max_size=3)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """A reply as the model would write it, and the messages that answer it: results of its calls or a user."""
    thought, made = draw(st.none() | plain), draw(calls)
    said = draw(plain) if not made or draw(st.booleans()) else ""
    text = f"<think>\n{thought}\n</think>\n\n{said}" if thought else said
    if made:
        lines = "".join(json.dumps(one) + "\n" for one in made)
        text += f"{chr(10) * 2 if said else ''}<tool_calls>\n{lines}</tool_calls>"
        results = [{"role": "tool", "content": draw(texts)} for _ in made]
        return text, [*results, *([{"role": "user", "content": draw(texts)}] if draw(st.booleans()) else [])]
    return text, [{"role": "user", "content": draw(texts)}]


def as_message(text: str, place: int = 0) -> dict[str, Any]:
    reply = parse_reply(text)
    made = [
        {"id": f"{place}.{n}", "function": {"name": one.name, "arguments": one.arguments}}
        for n, one in enumerate(reply.tool_calls)
    ]
    return {"role": "assistant", "content": reply.content, "reasoning_content": reply.reasoning, "tool_calls": made}


@given(turns=st.lists(exchanges(), min_size=1, max_size=3), asked=texts, system=st.booleans(), tools=st.booleans())
def test_prompt_replies_and_follow_ups_are_the_whole_conversation_with_its_thoughts(
    kind: MiniMaxM1Tokenizer,
    remembering: MiniMaxM1Tokenizer,
    turns: list[tuple[str, list[dict[str, Any]]]],
    asked: str,
    system: bool,
    tools: bool,
) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be good."}] if system else []
    messages.append({"role": "user", "content": asked})
    offered = TOOLS if tools else None
    ids = encode_chat(kind, messages, offered)
    for text, added in turns:
        place = len(messages)
        messages.append(as_message(text, place))
        added = [
            one | {"tool_call_id": f"{place}.{n}"} if one["role"] == "tool" else one for n, one in enumerate(added)
        ]
        ended = len(messages) % 2 == 0
        assert kind.eos_token_id is not None
        ids += [*kind.encode(text), *([kind.eos_token_id] if ended else [])]
        ids += follow_up(kind, messages, added, offered, ended=ended)
        messages += added
    assert ids == encode_chat(remembering, messages, offered)
    assert ids.count(kind.eos_token_id or -1) == len(messages) + tools, "no text forges the end of a turn"


def test_a_follow_up_stays_the_same_whatever_ids_the_reply_had(kind: MiniMaxM1Tokenizer) -> None:
    messages = [{"role": "user", "content": "2 + 2?"}, as_message("It is four.")]
    added = [{"role": "user", "content": "Sure?"}]
    after = follow_up(kind, messages, added, None)
    assert kind.decode(after) == f"\n{BOS}user name=user\nSure?{EOS}\n{BOS}ai name=assistant\n"
    assert follow_up(kind, messages, added, None, ended=False) == [kind.eos_token_id, *after]


def test_a_template_of_another_family_is_refused(kind: MiniMaxM1Tokenizer) -> None:
    other = with_template(kind, "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}")
    with pytest.raises(TokenizerError, match="opens no reply with 'ai name='"):
        follow_up(other, [as_message("a")], [{"role": "user", "content": "b"}], None)
