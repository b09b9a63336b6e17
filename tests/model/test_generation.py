"""`generate`: transformers' meanings, rows as if alone, ends and refusals."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.errors import RequestError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

PROMPT = torch.tensor([[1, 2, 3, 4, 5, 6]])


def test_prompt_first_and_repeatable(model: MiniMaxM1ForCausalLM) -> None:
    out = model.generate(PROMPT, max_new_tokens=7)
    assert out.shape == (1, 13) and torch.equal(out[:, :6], PROMPT)
    assert torch.equal(out, model.generate(PROMPT, torch.ones_like(PROMPT), max_new_tokens=7))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_generate_as_if_alone(tiny_model: MiniMaxM1ForCausalLM, side: str) -> None:
    short = PROMPT[:, :2]
    padded = torch.zeros_like(PROMPT)
    mask = torch.zeros_like(PROMPT)
    where = slice(4, 6) if side == "left" else slice(0, 2)
    padded[:, where], mask[:, where] = short, 1
    both = tiny_model.generate(
        torch.cat((PROMPT, padded)), torch.cat((torch.ones_like(PROMPT), mask)), max_new_tokens=8
    )
    assert torch.equal(both[0], tiny_model.generate(PROMPT, max_new_tokens=8)[0])
    assert torch.equal(both[1, 6:], tiny_model.generate(short, max_new_tokens=8)[0, 2:])


def test_an_ended_row_is_padded_and_the_other_goes_on(tiny_model: MiniMaxM1ForCausalLM) -> None:
    rows = torch.cat((PROMPT, PROMPT + 7))
    free = tiny_model.generate(rows, max_new_tokens=10)[:, 6:]
    end = free[0, 2].item()
    assert end not in free[0, :2] and end not in free[1]
    out = tiny_model.generate(rows, max_new_tokens=10, eos_token_id=end, pad_token_id=0)[:, 6:]
    assert out[0].tolist() == [*free[0, :3].tolist(), *[0] * 7]
    assert torch.equal(out[1], free[1])


def test_sampling_follows_its_generator(tiny_model: MiniMaxM1ForCausalLM) -> None:
    def sampled(seed: int, **options: float) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return tiny_model.generate(PROMPT, do_sample=True, generator=generator, **options)[0].tolist()

    assert sampled(1) == sampled(1) != sampled(2)
    assert sampled(1, top_k=1) == tiny_model.generate(PROMPT)[0].tolist()


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), {}, "empty"),
        (torch.tensor([[64]]), {}, "outside the vocabulary"),
        (PROMPT, {"max_new_tokens": 0}, "at least 1, got 0"),
        (PROMPT, {"max_new_tokens": 10**9}, "more than the model's 4096"),
        (PROMPT, {"do_sample": True, "temperature": 0.0}, "temperature above 0"),
        (PROMPT, {"do_sample": True, "top_p": 1.5}, "top_p"),
    ],
)
def test_bad_input_is_one_sentence(
    tiny_model: MiniMaxM1ForCausalLM, ids: torch.Tensor, options: dict[str, float], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        tiny_model.generate(ids, **options)
