"""Log-probabilities as OpenAI tells them: with the text and the bytes of each token.

In: `Token`s and `TokenLogprob`s, ids and numbers. Out: the wire models of chat and of plain completions.
"""

from __future__ import annotations

from collections.abc import Sequence

from minimax_m1.engine.request import TokenLogprob
from minimax_m1.errors import TokenizerError
from minimax_m1.serve.teller import Token
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.completions import TextLogprobs
from minimax_m1.wire.openai import ChosenToken, LikelyToken, Logprobs, PromptLogprob, PromptLogprobs

_CERTAIN = 0.0  # of an id that a guide forced: nothing else could come


def spelled(tokenizer: MiniMaxM1Tokenizer, id: int) -> bytes:
    """A token's bytes; an id of a padded vocabulary shows as U+FFFD, as in the text."""
    try:
        return tokenizer.token_bytes(id)
    except TokenizerError:
        return "\ufffd".encode()


def chat_logprobs(tokenizer: MiniMaxM1Tokenizer, tokens: Sequence[Token], count: int) -> Logprobs:
    """Chat's form, with the `count` likeliest of each."""
    content = []
    for token in tokens:
        data = spelled(tokenizer, token.id)
        likely = []
        for each in _likeliest(token, count):
            its = spelled(tokenizer, each.token_id)
            likely.append(LikelyToken(token=its.decode("utf-8", "replace"), bytes=list(its), logprob=each.logprob))
        content.append(
            ChosenToken(
                token=data.decode("utf-8", "replace"),
                bytes=list(data),
                logprob=_CERTAIN if token.logprob is None else token.logprob,
                top_logprobs=likely,
            )
        )
    return Logprobs(content=content)


def prompt_logprobs(tokenizer: MiniMaxM1Tokenizer, told: Sequence[tuple[TokenLogprob, ...]]) -> PromptLogprobs:
    """vLLM's form: for each token of the prompt {id: what is known of it}, its own first; None for the first token."""
    return [
        {
            each.token_id: PromptLogprob(
                logprob=each.logprob,
                rank=each.rank,
                decoded_token=spelled(tokenizer, each.token_id).decode("utf-8", "replace"),
            )
            for each in likely
        }
        or None
        for likely in told
    ]


def text_logprobs(
    tokenizer: MiniMaxM1Tokenizer, tokens: Sequence[Token | None], ids: Sequence[int], count: int, start: int = 0
) -> TextLogprobs:
    """Plain completions' form for tokens of these ids, None for one without a figure; offsets count from `start`."""
    told = TextLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    offset, held = start, b""
    for id, token in zip(ids, tokens, strict=True):
        data = spelled(tokenizer, id)
        told.text_offset.append(offset)
        told.tokens.append(data.decode("utf-8", "replace"))
        told.token_logprobs.append(None if token is None else _CERTAIN if token.logprob is None else token.logprob)
        told.top_logprobs.append(None if token is None or not count else _named(tokenizer, token, count))
        held += data
        whole = _whole_characters(held)
        offset, held = offset + len(whole.decode("utf-8", "replace")), held[len(whole) :]
    return told


def _named(tokenizer: MiniMaxM1Tokenizer, token: Token, count: int) -> dict[str, float]:
    """By text, the likeliest first; where two spell alike the likelier stays. The chosen one is always there."""
    named: dict[str, float] = {}
    for each in sorted(token.top, key=lambda each: each.rank)[:count]:
        named.setdefault(spelled(tokenizer, each.token_id).decode("utf-8", "replace"), each.logprob)
    if token.logprob is not None:
        named.setdefault(spelled(tokenizer, token.id).decode("utf-8", "replace"), token.logprob)
    return named


def _likeliest(token: Token, count: int) -> list[TokenLogprob]:
    """The engine tells the chosen one first, and again in its place among the likeliest where it is one of them."""
    return sorted({each.token_id: each for each in token.top}.values(), key=lambda each: each.rank)[:count]


def _whole_characters(data: bytes) -> bytes:
    """All but the first bytes of a character that is not complete."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if lead >= 0xC0:
            need = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return data[:-back] if back < need else data
        if lead < 0x80:
            break
    return data
