"""How well a model does its tasks: held-out cases, answered freely and greedily, graded by the families' verifiers.

In: a model with its tokenizer, and suites of cases. Out: a `Score` a suite: the share of right answers, how much the
reference replies surprise the model, and, where several samples of each answer are asked for, how likely some of k
are right (pass@k).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import RequestError
from minimax_m1.eval.suites import Case, Suite
from minimax_m1.llm import LLM, CompletionOutput, RequestOutput
from minimax_m1.tasks.example import Reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

_BATCH = 25  # prompts at a time
_LEAST_ROOM = 400  # tokens for any reply; twice the suite's longest reference reply where that is more
_LOSS_TOKENS = 200_000  # read once more for a suite's loss, of which fewer cases tell as much
_BANDS = ((1, 3), (4, 7), (8, 10))  # difficulties told apart in a suite that mixes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of the report: what was asked, how many cases, how many were right, the mean prompt in tokens.

    `right` counts greedy answers. `loss` is the mean of -log p over the tokens of the reference replies, in nats; of
    long prompts only the first cases are read for it. `bands` are, in a suite of mixed difficulties, {"1-3": (right,
    cases), ...}. `hits` are the right ones among `samples` sampled answers of each case; none were asked for if 0.
    """

    name: str
    cases: int
    right: int
    prompt_tokens: float
    loss: float
    bands: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    samples: int = 0
    hits: tuple[int, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.cases

    @property
    def perplexity(self) -> float:
        """exp(loss): 1 where the model is certain of every token of the reference replies."""
        return math.exp(self.loss)

    def pass_at(self, k: int) -> float:
        """How likely one of k sampled answers is right: the mean over cases of the unbiased estimate."""
        assert 1 <= k <= self.samples, f"pass@{k} takes that many samples, there are {self.samples}"
        return sum(pass_at(self.samples, hits, k) for hits in self.hits) / len(self.hits)


def pass_at(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of pass@k from `right` of `samples` answers: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def grade(llm: LLM, cases: Sequence[Case], tokenizer: MiniMaxM1Tokenizer) -> tuple[list[bool], list[RequestOutput]]:
    """Which cases the model answers right, greedily, and the outputs; both in order.

    Raises:
        RequestError: the engine gave an answer up, so there is no score.
    """
    params = SamplingParams(temperature=0, max_tokens=_room(cases, tokenizer))
    outputs = list(_run(llm, [case.prompt(tokenizer) for case in cases], params))
    return [_right(case, output.outputs[0]) for case, output in zip(cases, outputs, strict=True)], outputs


def sample(
    llm: LLM, cases: Sequence[Case], tokenizer: MiniMaxM1Tokenizer, params: SamplingParams, rng: random.Random
) -> list[int]:
    """How many of `params.n` answers are right, for each case; raises as `grade` does."""
    room = _room(cases, tokenizer)
    each = [replace(params, max_tokens=room, seed=rng.randrange(2**62)) for _ in cases]
    outputs = _run(llm, [case.prompt(tokenizer) for case in cases], each)
    return [sum(_right(case, one) for one in output.outputs) for case, output in zip(cases, outputs, strict=True)]


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


def evaluate(
    llm: LLM, suites: Sequence[Suite], *, cases: int, seed: int, samples: int = 0, temperature: float = 1.0
) -> Iterator[Score]:
    """Scores as they come, in the order of the suites; with `samples`, so many answers are drawn of each case too."""
    tokenizer = llm.get_tokenizer()
    params = SamplingParams(n=max(1, samples), temperature=temperature)
    for suite in suites:
        some = suite.cases(cases, seed, lambda text: len(tokenizer.encode(text)))
        right, outputs = grade(llm, some, tokenizer)
        rng = random.Random(f"sample/{seed}/{suite.name}")
        hits = sample(llm, some, tokenizer, params, rng) if samples else []
        tokens = sum(len(output.prompt_token_ids) for output in outputs) / len(outputs)
        yield Score(
            name=suite.name,
            cases=len(some),
            right=sum(right),
            prompt_tokens=tokens,
            loss=loss(llm, some[: max(10, int(_LOSS_TOKENS / tokens))], tokenizer),
            bands=_bands(some, right),
            samples=samples,
            hits=tuple(hits),
        )


def _bands(cases: Sequence[Case], right: Sequence[bool]) -> dict[str, tuple[int, int]]:
    """Right answers and cases by difficulty, easy to hard; empty where all cases are of one."""
    if len({case.example.difficulty for case in cases}) < 2:
        return {}
    bands: dict[str, tuple[int, int]] = {}
    for least, most in _BANDS:
        own = [good for case, good in zip(cases, right, strict=True) if least <= case.example.difficulty <= most]
        if own:
            bands[f"{least}-{most}"] = (sum(own), len(own))
    return bands


def _room(cases: Sequence[Case], tokenizer: MiniMaxM1Tokenizer) -> int:
    """Most tokens of a reply: what the model says may be longer than the reference and right all the same."""
    return max(_LEAST_ROOM, 2 * max(sum(case.told(tokenizer)[1]) for case in cases))


def _right(case: Case, answer: CompletionOutput) -> bool:
    calls = tuple((call.name, call.arguments) for call in answer.tool_calls)
    return case.right(Reply(reasoning=answer.reasoning, content=answer.content, tool_calls=calls))


def _run(
    llm: LLM, prompts: Sequence[list[int]], params: SamplingParams | Sequence[SamplingParams]
) -> Iterator[RequestOutput]:
    """Outputs in order, some prompts at a time; raises RequestError where the engine gave one up."""
    for first in range(0, len(prompts), _BATCH):
        some = params if isinstance(params, SamplingParams) else params[first : first + _BATCH]
        for output in llm.generate(prompts[first : first + _BATCH], some, use_tqdm=False):
            for answer in output.outputs:
                if answer.error is not None:
                    raise RequestError(answer.error)
            yield output
