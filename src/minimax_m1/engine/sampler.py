"""The choice of the next ids: rows of logits and each request's `Sampler` in, ids and log-probabilities out.

Order and meaning are vLLM's: masks and bans, logit_bias, penalties, temperature, top_k, top_p, min_p. Rows that ask
for nothing special share every pass over the logits, the others have a copy of their own. A drawn id takes exactly
one number from its request's own generator, looked up in the cumulated probabilities in the order of the ids
(kernels/sampling says the same plainly), so a seed gives the same text whatever else runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine.request import SamplingParams, TokenLogprob
from minimax_m1.errors import RequestError
from minimax_m1.kernels.sampling.torch import draw

# Numbers in flight while ids are drawn: a few MB, which stay in a core's cache.
_BLOCK = 2**20
# Random numbers that a request draws at a time; the same ones, and a call of torch costs as much as many of them.
_AHEAD = 32
# Ids whose probabilities are summed together before one is looked for among them.
_STRETCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The next id and its log-probability; `top`, where asked for: the chosen id, then the likeliest, best first."""

    token: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Sampler:
    """One request's: its generator, and what its penalties must remember.

    `prompt` is int64 [tokens] of valid ids; only `repetition_penalty` looks at it.

    Raises:
        RequestError: `logit_bias` names an id outside the vocabulary.
    """

    __slots__ = ("_bias", "_biased", "_counts", "_generator", "_seen", "_uniforms", "params")

    def __init__(self, params: SamplingParams, prompt: NDArray[np.int64], vocab_size: int) -> None:
        bias = params.logit_bias or {}
        for token in bias:
            if not 0 <= token < vocab_size:
                raise RequestError(f"logit_bias names {token}, outside 0 to {vocab_size - 1}", param="logit_bias")
        self.params = params
        self._biased = np.array(list(bias), dtype=np.int64)
        self._bias = np.array(list(bias.values()), dtype=np.float64)
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed)
        self._uniforms: list[float] = []  # drawn ahead, the next one last
        self._seen: NDArray[np.bool_] | None = None  # [V], ids that a penalty is for
        if params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0:
            self._seen = np.zeros(vocab_size, dtype=np.bool_)
            self._counts = np.zeros(vocab_size, dtype=np.int32)  # in the reply
            self._seen[prompt] = True

    def accept(self, token: int) -> None:
        """Takes each id of the reply, forced ones too."""
        if self._seen is not None:
            self._seen[token] = True
            self._counts[token] += 1

    def uniform(self) -> float:
        """The next number in [0, 1) of the request's own."""
        if not self._uniforms:
            self._uniforms = torch.rand(_AHEAD, generator=self._generator, dtype=torch.float64).tolist()[::-1]
        return self._uniforms.pop()

    def adjusted(
        self, logits: Tensor, banned: Collection[int], mask: NDArray[np.bool_] | None
    ) -> NDArray[np.floating] | None:
        """A copy of `logits` [V] with the mask, bans, bias and penalties in it; None where there are none."""
        if mask is None and not banned and not len(self._biased) and self._seen is None:
            return None
        row: NDArray[np.floating] = logits.cpu().numpy().copy()
        if len(self._biased):
            row[self._biased] += self._bias
        if self._seen is not None:
            ids = np.flatnonzero(self._seen)
            row[ids] = self._penalised(row[ids], self._counts[ids])
        if mask is not None:
            row[~mask] = -np.inf
        if banned:
            ids = np.fromiter(banned, dtype=np.int64)
            before = row[ids]
            row[ids] = -np.inf
            if row.max() == -np.inf:  # nothing else is left, so these may come after all
                row[ids] = before
        return row

    def _penalised(self, logits: NDArray[np.floating], counts: NDArray[np.int32]) -> NDArray[np.float64]:
        penalty = self.params.repetition_penalty
        most = np.finfo(logits.dtype).max
        wide = logits.astype(np.float64)  # float32 would make 0 of a very small penalty
        with np.errstate(over="ignore"):  # which leads beyond all numbers, and clip brings it back
            scaled = np.where(wide > 0, wide / penalty, wide * penalty)
        scaled -= self.params.frequency_penalty * counts + self.params.presence_penalty * (counts > 0)
        return scaled.clip(-most, most)


def choose(
    logits: Tensor,
    samplers: Sequence[Sampler],
    banned: Sequence[Collection[int]],
    masks: Sequence[NDArray[np.bool_] | None],
) -> list[Choice | RequestError]:
    """Chooses one id for each row of `logits` [N, V], of any float dtype, on any device.

    `banned` ids may not come next; if that leaves none, they are allowed again. `masks` [V] are True where an id may
    come, None where any may. Log-probabilities are of the unchanged logits, in float32 or better. A row that has a
    logit that is not finite, or a mask that allows nothing, gets a RequestError in its place; nothing is raised.
    The samplers do not accept the ids: the caller tells them.
    """
    assert len(logits) == len(samplers) == len(banned) == len(masks)
    if not samplers:
        return []
    logits = _wide(logits)
    logprobs = logits.log_softmax(1)
    best = logits.argmax(1)
    # One copy from the device. Not finite is also a row whose finite logits lie too far apart for their type.
    known = (logprobs.amin(1).isfinite(), best, logprobs.gather(1, best[:, None])[:, 0])
    finite, greedy, chosen = torch.stack([each.to(logprobs.dtype) for each in known]).tolist()
    tokens = [int(token) for token in greedy]
    errors: dict[int, RequestError] = {}
    changed: dict[int, NDArray[np.floating]] = {}
    drawn: list[int] = []
    for i, (sampler, mask) in enumerate(zip(samplers, masks, strict=True)):
        if not finite[i] and (error := _not_finite(logits[i])):
            errors[i] = error
        elif mask is not None and not mask.any():
            errors[i] = RequestError("the form that the reply must have allows no next token")
        else:
            row = sampler.adjusted(logits[i], banned[i], mask)
            if row is not None:
                changed[i] = row
            if sampler.params.temperature > 0:
                drawn.append(i)
            elif row is not None:
                tokens[i] = int(row.argmax())
    rows = len(drawn) if logits.is_cuda else max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(drawn), max(rows, 1)):
        part = drawn[start : start + rows]
        scores = logits[part] if logits.is_cuda else logits[part].cpu()
        for place, i in enumerate(part):
            if i in changed:
                scores[place] = torch.from_numpy(changed[i]).to(scores.device)
        some = [samplers[i] for i in part]
        for i, token in zip(part, _draw_there(scores, some) if scores.is_cuda else _draw(scores, some), strict=True):
            tokens[i] = token
    if tokens != greedy:
        chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    asked = [i for i, s in enumerate(samplers) if s.params.logprobs is not None and i not in errors]
    counts = [samplers[i].params.logprobs or 0 for i in asked]
    tops = dict(zip(asked, _tops(logprobs[asked], [tokens[i] for i in asked], counts), strict=True)) if asked else {}
    return [
        errors[i] if i in errors else Choice(token=tokens[i], logprob=chosen[i], top=tops.get(i, ()))
        for i in range(len(samplers))
    ]


def prompt_logprobs(logits: Tensor, ids: Sequence[int], count: int) -> list[tuple[TokenLogprob, ...]]:
    """For each of `ids` [R], predicted by `logits` [R, V]: the id itself, then the `count` likeliest, best first.

    Raises:
        RequestError: a logit is not finite.
    """
    assert len(logits) == len(ids)
    tops: list[tuple[TokenLogprob, ...]] = []
    rows = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(ids), rows):
        part = _wide(logits[start : start + rows])
        if error := _not_finite(part):
            raise error
        some = ids[start : start + rows]
        tops += _tops(part.log_softmax(1), some, [count] * len(some))
    return tops


def _wide(logits: Tensor) -> Tensor:
    logits = logits.detach()
    return logits if logits.dtype == torch.float64 else logits.float()


def _not_finite(logits: Tensor) -> RequestError | None:
    bad = logits.numel() - int(logits.isfinite().sum())
    return RequestError(f"the model gave {bad} of {logits.numel()} logits that are not finite numbers") if bad else None


def _tops(logprobs: Tensor, ids: Sequence[int], counts: Sequence[int]) -> list[tuple[TokenLogprob, ...]]:
    """For each row of `logprobs` [R, V]: its id of `ids`, then its `counts` best ids without that one again."""
    if not ids:
        return []
    best = logprobs.topk(min(max(counts), logprobs.shape[1]))  # [R, most], best first
    own = logprobs.gather(1, torch.tensor(ids, device=logprobs.device)[:, None])  # [R, 1]
    ranks = (logprobs > own).sum(1) + 1
    tops = []
    for token, logprob, rank, values, others, count in zip(
        ids, own[:, 0].tolist(), ranks.tolist(), best.values.tolist(), best.indices.tolist(), counts, strict=True
    ):
        top = [TokenLogprob(token_id=token, logprob=logprob, rank=rank)]
        for value, other in zip(values[:count], others, strict=False):
            if other != token:  # equal values share the rank of the first of them
                top.append(TokenLogprob(token_id=other, logprob=value, rank=values.index(value) + 1))
        tops.append(tuple(top))
    return tops


def _draw_there(scores: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """As `_draw`, on the scores' device: of a large vocabulary they would take longer to come here than to be drawn."""
    vocab, device = scores.shape[1], scores.device
    params = [sampler.params for sampler in samplers]
    kept = [each.top_k if 0 < each.top_k < vocab else vocab for each in params]
    wide = torch.tensor(
        [
            [sampler.uniform(), each.top_p, each.min_p, each.temperature]
            for sampler, each in zip(samplers, params, strict=True)
        ],
        dtype=torch.float64,
    ).to(device)
    ids = draw(
        scores,
        wide[:, 0],
        temperature=wide[:, 3],
        top_k=torch.tensor(kept).to(device) if min(kept) < vocab else None,
        top_p=wide[:, 1] if any(each.top_p < 1 for each in params) else None,
        min_p=wide[:, 2] if any(each.min_p > 0 for each in params) else None,
    )
    chosen: list[int] = ids.tolist()
    return chosen


def _draw(scores: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Draws one id for each row of `scores` [N, V], -inf where an id is not allowed."""
    rows, vocab = scores.shape
    params = [sampler.params for sampler in samplers]
    heat = torch.tensor([each.temperature for each in params], dtype=torch.float64).to(scores.dtype)
    heat = heat.clamp(min=torch.finfo(scores.dtype).tiny)  # float32 would make 0 of a smaller one
    shifted = scores - scores.amax(1, keepdim=True)  # from the maximum, so no temperature overflows
    probs = (shifted / heat[:, None]).exp().numpy()  # the best is exactly 1; the sum does not matter
    top_k = np.array([each.top_k if 0 < each.top_k < vocab else vocab for each in params])
    top_p = np.array([each.top_p for each in params])
    min_p = np.array([each.min_p for each in params], dtype=probs.dtype)
    if (top_k < vocab).any() or (top_p < 1).any():
        order = np.sort(probs, axis=1)[:, ::-1]  # best first
        if (top_k < vocab).any():
            order = np.where(np.arange(vocab) < top_k[:, None], order, 0)
        kept = np.where(top_p < 1, _reach(order, top_p, past=False) + 1, top_k)  # so many ids stay
        least = order[np.arange(rows), kept - 1][:, None]  # the probability of the last of them
        for row in np.flatnonzero((probs >= least).sum(1) > kept):  # of ids that tie for the last place the first stay
            ties = np.flatnonzero(probs[row] == least[row])
            probs[row, ties[kept[row] - (probs[row] > least[row]).sum() :]] = 0
        probs *= probs >= least
    if min_p.any():
        probs *= probs >= min_p[:, None]
    places: list[int] = _reach(probs, np.array([sampler.uniform() for sampler in samplers]), past=True).tolist()
    return places


def _reach(probs: NDArray[np.floating], share: NDArray[np.float64], *, past: bool) -> NDArray[np.int64]:
    """The first place in each row of `probs` [N, V] where the sum so far reaches `share` [N] of the row's whole.

    With `past` it must go past it, so that a probability of 0 is never met. Sums are float64, over stretches first:
    a running sum over all of a large vocabulary would take most of the time of a draw.
    """
    rows, vocab = probs.shape
    sums = np.add.reduceat(probs, np.arange(0, vocab, _STRETCH), axis=1, dtype=np.float64).cumsum(1)
    goal = share[:, None] * sums[:, -1:]
    stretch = _first(sums, goal, past)
    before = np.where(stretch > 0, sums[np.arange(rows), stretch - 1], 0.0)
    ids = stretch[:, None] * _STRETCH + np.arange(min(_STRETCH, vocab))  # beyond the vocabulary in the last stretch
    some = np.take_along_axis(probs, np.minimum(ids, vocab - 1), 1) * (ids < vocab)
    inner = before[:, None] + some.cumsum(1, dtype=np.float64)
    found: NDArray[np.int64] = stretch * _STRETCH + _first(inner, goal, past)
    return found


def _first(sums: NDArray[np.float64], goal: NDArray[np.float64], past: bool) -> NDArray[np.int64]:
    short = (sums <= goal if past else sums < goal).sum(1)
    # Rounding may put the goal beyond the last sum; then it is where the sum is whole.
    whole: NDArray[np.int64] = np.minimum(short, (sums < sums[:, -1:]).sum(1))
    return whole
