"""How well a model does its tasks: held-out cases, answered freely and greedily, graded by the families' verifiers.

In: a model and its tokenizer. Out: a `Score` a family, and one for recall at each of two lengths: the share of right
answers, and how much the reference replies surprise the model. Cases come from the test split, which training never
sees.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError
from minimax_m1.llm import LLM, CompletionOutput, RequestOutput
from minimax_m1.tasks.example import Example, Reply, draw, prompt_of
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.tasks.recall import needle
from minimax_m1.tasks.recall import sample as sample_recall
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

_BATCH = 25
_MAX_TOKENS = 400  # the longest reference reply has about 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of the report: what was asked, how many cases, how many were right, the mean prompt in tokens.

    `loss` is the mean of -log p over the tokens of the reference replies, in nats.
    """

    name: str
    cases: int
    right: int
    prompt_tokens: float
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.cases

    @property
    def perplexity(self) -> float:
        """exp(loss): 1 where the model is certain of every token of the reference replies."""
        return math.exp(self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One graded turn of one example; of a raw text, what follows its last equals sign (turn 0)."""

    example: Example
    turn: int = 0

    def prompt(self, tokenizer: MiniMaxM1Tokenizer) -> list[int]:
        """The ids that the model is to continue."""
        if self.example.raw is not None:
            return tokenizer.encode(self.example.raw.rpartition("=")[0] + "=")
        return encode_chat(tokenizer, prompt_of(self.example, self.turn), self.example.tools or None)

    def told(self, tokenizer: MiniMaxM1Tokenizer) -> tuple[list[int], list[bool]]:
        """The prompt with its reference reply, and which of these ids are the reply's, its end among them."""
        asked = self.prompt(tokenizer)
        if self.example.raw is not None:
            assert tokenizer.eos_token_id is not None
            ids = [*asked, *tokenizer.encode(self.example.raw.rpartition("=")[2]), tokenizer.eos_token_id]
            return ids, [at >= len(asked) for at in range(len(ids))]
        messages, tools = self.example.messages[: self.turn + 1], self.example.tools or None
        ids, said = encode_chat(tokenizer, messages, tools, add_generation_prompt=False, with_mask=True)
        return ids, [bool(own) and at >= len(asked) for at, own in enumerate(said)]

    def right(self, answer: CompletionOutput) -> bool:
        """Whether the family's verifier accepts it."""
        if self.example.raw is not None:
            return answer.content.strip() == self.example.raw.rpartition("=")[2].strip()
        calls = tuple((call.name, call.arguments) for call in answer.tool_calls)
        reply = Reply(reasoning=answer.reasoning, content=answer.content, tool_calls=calls)
        return FAMILIES[self.example.family].verify(self.example, self.turn, reply)


def suites(cases: int, seed: int, count: Callable[[str], int]) -> Iterator[tuple[str, list[Case]]]:
    """The named sets of held-out cases; `count` gives a text's tokens, for the lengths of the recall sets."""
    rng = random.Random(f"evaluate/{seed}")
    for digits in range(1, 5):
        yield f"addition, up to {digits} digits", _graded("addition", digits, cases, rng)
    yield "sums without a thought", [Case(example=draw(FAMILIES["sums"], rng, 2, "test")) for _ in range(cases)]
    yield "tool calls", _tool_calls(cases, rng)
    yield "talk", _graded("talk", 5, cases, rng)
    for tokens in (1000, 4000):
        needles = [needle(rng, tokens, rng.random(), count) for _ in range(cases)]
        yield f"needle in {tokens} tokens", [Case(example=e, turn=e.turns[0]) for e in needles]
    for tokens in (1000, 4000):
        yield f"recall within {tokens} tokens", _recall(tokens, cases, rng, count)


def _graded(family: str, difficulty: int, cases: int, rng: random.Random) -> list[Case]:
    examples = [draw(FAMILIES[family], rng, difficulty, "test") for _ in range(cases)]
    return [Case(example=e, turn=e.turns[0]) for e in examples]


def _tool_calls(cases: int, rng: random.Random) -> list[Case]:
    """Turns that call a tool, at every difficulty; names of functions and arguments are mostly made up on the spot."""
    found: list[Case] = []
    while len(found) < cases:
        example = draw(FAMILIES["tools"], rng, rng.randint(1, 10), "test")
        found += [Case(example=example, turn=t) for t in example.turns[:1] if "tool_calls" in example.messages[t]]
    return found


def _recall(tokens: int, cases: int, rng: random.Random, count: Callable[[str], int]) -> list[Case]:
    """First questions of documents (lists and prose, many facts each) from a quarter of the length to the whole."""
    found: list[Case] = []
    while len(found) < cases:
        example = sample_recall(rng, rng.randint(1, 10), int(tokens * rng.uniform(0.25, 1.0)))
        size = sum(count(message["content"]) for message in prompt_of(example, example.turns[0]))
        if tokens // 4 <= size <= tokens:
            found.append(Case(example=example, turn=example.turns[0]))
    return found


def grade(llm: LLM, cases: Sequence[Case], tokenizer: MiniMaxM1Tokenizer) -> tuple[int, float, list[RequestOutput]]:
    """Right answers, mean prompt tokens, and the outputs in order.

    Raises:
        RequestError: the engine gave an answer up, so there is no score.
    """
    params = SamplingParams(temperature=0, max_tokens=_MAX_TOKENS)
    outputs = list(_run(llm, [case.prompt(tokenizer) for case in cases], params))
    right = sum(case.right(output.outputs[0]) for case, output in zip(cases, outputs, strict=True))
    return right, sum(len(o.prompt_token_ids) for o in outputs) / len(outputs), outputs


def loss(llm: LLM, cases: Sequence[Case], tokenizer: MiniMaxM1Tokenizer) -> float:
    """Mean of -log p over the tokens of the cases' reference replies; raises as `grade` does."""
    told = [case.told(tokenizer) for case in cases]
    total = 0.0
    outputs = _run(llm, [ids for ids, _ in told], SamplingParams(max_tokens=0, prompt_logprobs=0))
    for (ids, said), output in zip(told, outputs, strict=True):
        assert output.prompt_logprobs is not None
        for token, own, known in zip(ids, said, output.prompt_logprobs, strict=True):
            if own and known is not None:
                total -= known[token].logprob
    return total / sum(sum(said) for _, said in told)


def _run(llm: LLM, prompts: Sequence[list[int]], params: SamplingParams) -> Iterator[RequestOutput]:
    """Outputs in order, some prompts at a time; raises RequestError where the engine gave one up."""
    for first in range(0, len(prompts), _BATCH):
        for output in llm.generate(prompts[first : first + _BATCH], params, use_tqdm=False):
            if output.outputs[0].error is not None:
                raise RequestError(output.outputs[0].error)
            yield output


def evaluate(llm: LLM, *, cases: int, seed: int) -> Iterator[Score]:
    """Scores as they come, in the order of `suites`."""
    tokenizer = llm.get_tokenizer()
    for name, some in suites(cases, seed, lambda text: len(tokenizer.encode(text))):
        right, tokens, _ = grade(llm, some, tokenizer)
        yield Score(name=name, cases=len(some), right=right, prompt_tokens=tokens, loss=loss(llm, some, tokenizer))
