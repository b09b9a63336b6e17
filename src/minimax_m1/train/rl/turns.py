"""The turns after a sampled reply, as ids: token in, token out, so that the model trains on the ids that it sampled.

In: the conversation up to the reply, and the messages that answer it. Out: the ids between that reply and the next.
What was sampled is never written anew, for a text may have other ids than those that the model chose for it; so
thoughts stay too, where the chat template would drop them once the user speaks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minimax_m1.errors import TokenizerError
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.messages import Message
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def follow_up(
    tokenizer: MiniMaxM1Tokenizer,
    messages: Sequence[Message],
    added: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    ended: bool = True,
) -> list[int]:
    """The ids to append to a sampled reply, so that the model reads `added` and may reply again.

    `messages` end with the reply, `added` are tool and user messages; what the chat template writes between the
    reply and the model's next one is returned, the opening of that one included. `ended` says whether the last id
    that was sampled is `tokenizer.eos_token_id`; where it is not, the ids begin with it.

    Raises:
        RequestError: messages or tools are malformed.
        TokenizerError: the chat template does not open an assistant's turn as the family's does.
    """
    assert messages[-1]["role"] == "assistant" and added, "a follow-up stands between two replies"
    assert all(message["role"] in ("tool", "user") for message in added), "the template moves system messages"
    ids, said = encode_chat(tokenizer, [*messages, *added], tools, with_mask=True)
    if 1 not in said:
        raise TokenizerError("the chat template opens no reply with 'ai name=', so turns cannot be told apart")
    end = len(said) - 1 - said[::-1].index(1)  # the reply's end of sentence: what follows is not the assistant's
    return ids[end + ended :]
