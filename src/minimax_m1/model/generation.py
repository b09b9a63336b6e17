"""`generate`: greedy or sampled continuation of a padded batch, with transformers' names and meanings.

In: ids [B, T] with padding on either side. Out: [B, T + new]: the prompt as given, then new ids, then padding.
The whole batch decodes in one packed step; a row that has ended leaves it. For serving, see engine/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minimax_m1.errors import RequestError
from minimax_m1.kernels.sampling.reference import draw
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import State

if TYPE_CHECKING:
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

_PREFILL_CHUNK = 2048  # tokens of one row run at a time, so that a long prompt needs little memory beside its state


@torch.inference_mode()
def generate(
    model: MiniMaxM1ForCausalLM,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    generator: torch.Generator | None = None,
    expert_threshold: float = 1.0,
) -> Tensor:
    """Continues each row until `eos_token_id` (the model's own if None) or `max_new_tokens`.

    `temperature`, `top_k` and `top_p` are read only with `do_sample=True`, as in transformers. Rows that end early
    are filled with `pad_token_id` (the end id if None). Raises RequestError, naming the argument.
    """
    model._check(input_ids, attention_mask)
    if max_new_tokens < 1:
        raise RequestError(f"max_new_tokens must be at least 1, got {max_new_tokens}", param="max_new_tokens")
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    prompts = [row[keep] for row, keep in zip(input_ids, real, strict=True)]
    if not prompts or min(len(p) for p in prompts) == 0:
        raise RequestError("the prompt is empty: each row needs at least one token", param="input_ids")
    longest = max(len(p) for p in prompts) + max_new_tokens
    if longest > model.config.max_position_embeddings:
        raise RequestError(
            f"prompt and new tokens make {longest}, more than the model's {model.config.max_position_embeddings}",
            param="max_new_tokens",
        )
    if do_sample and not (temperature > 0 and 0 < top_p <= 1):
        raise RequestError(
            f"sampling needs temperature above 0 and top_p in (0, 1], got {temperature} and {top_p}",
            param="temperature",
        )
    ends = _ids(model.config.eos_token_id if eos_token_id is None else eos_token_id)
    fill = pad_token_id if pad_token_id is not None else ends[0] if ends else 0
    prefilled = [prefill(model, prompt, expert_threshold) for prompt in prompts]
    state = State.concat([s for s, _ in prefilled])
    logits = torch.cat([last for _, last in prefilled])
    new: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    while True:
        if do_sample:
            ids = [
                draw(row, generator, temperature=temperature, top_k=top_k, top_p=top_p, min_p=0.0)
                for row in logits.double().cpu()
            ]
        else:
            ids = logits.argmax(-1).tolist()
        for row, token in zip(running, ids, strict=True):
            new[row].append(token)
        going = [i for i, token in enumerate(ids) if token not in ends and len(new[running[i]]) < max_new_tokens]
        if not going:
            break
        if len(going) < len(running):
            state = State.concat([state.row(i) for i in going])
            running = [running[i] for i in going]
        batch = Batch.of([[new[row][-1]] for row in running], state, model.device)
        run = model.run(batch, state, expert_threshold=expert_threshold)
        assert run.logits is not None
        state, logits = run.state, run.logits
    width = max(len(ids) for ids in new)
    tail = torch.tensor([ids + [fill] * (width - len(ids)) for ids in new], device=input_ids.device)
    return torch.cat((input_ids, tail.to(input_ids.dtype)), 1)


def prefill(model: MiniMaxM1ForCausalLM, prompt: Tensor, expert_threshold: float = 1.0) -> tuple[State, Tensor]:
    """Reads one prompt [T] in chunks; gives the state after it and the last token's logits [1, V]."""
    state = model.empty_state()
    chunks = prompt.split(_PREFILL_CHUNK)
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        batch = Batch.of([chunk.tolist()], state, model.device)
        run = model.run(batch, state, expert_threshold=expert_threshold, logits="last" if last else "none")
        state = run.state
    assert run.logits is not None
    return state, run.logits


def _ids(ids: int | Sequence[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
