"""Sharper softmax attention beyond the training's length: the factor itself, and the same one in every way to run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import ConfigError
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.pages import PageTable
from minimax_m1.model.attention import SoftmaxAttention
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import PagedKeyValues
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

TRAINED = 6
TEXT = torch.randint(0, 64, (50,), generator=torch.Generator().manual_seed(1)).tolist()


def sharp(trained: int = TRAINED, **changes: object) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(tiny().replace(softmax_log_n=trained, initializer_range=1.0, **changes)).eval()


def logits(model: MiniMaxM1ForCausalLM, texts: list[list[int]], positions: Tensor | None = None) -> Tensor:
    state = model.empty_state(len(texts))
    batch = Batch.of(texts, state)
    told = model.run(batch if positions is None else replace(batch, positions=positions), state, logits="all").logits
    assert told is not None
    return told


@torch.inference_mode()
@pytest.mark.parametrize("skip", [0, 1000])
def test_the_last_query_grows_with_the_logarithm_of_the_tokens_seen(skip: int) -> None:
    model = sharp().double()
    for n in range(1, len(TEXT), 7):
        positions = torch.arange(n) + torch.linspace(0, skip, n).long()  # skipped positions do not count as tokens
        told = logits(model, [TEXT[:n]], positions)[-1]
        plain = sharp(0).double()  # softmax stands last only, so its queries may be scaled as a whole for one row
        mixer = plain.model.layers[-1].self_attn
        assert isinstance(mixer, SoftmaxAttention)
        mixer.q_proj.weight.data *= max(1.0, math.log(n) / math.log(TRAINED))
        torch.testing.assert_close(told, logits(plain, [TEXT[:n]], positions)[-1], rtol=1e-10, atol=1e-12)


@torch.inference_mode()
def test_nothing_changes_up_to_the_trained_length_and_something_does_beyond() -> None:
    on, off = logits(sharp(), [TEXT]), logits(sharp(0), [TEXT])
    assert torch.equal(on[:TRAINED], off[:TRAINED])
    assert ((on - off).abs().amax(-1) > 1e-4)[TRAINED:].all()


@torch.inference_mode()
@pytest.mark.parametrize("kinds", [(0, 0, 0, 1), (1, 0, 1, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("ops", [Ops.reference, Ops.torch, Ops.cpu])
def test_every_way_to_run_agrees(kinds: tuple[int, ...], paged: bool, ops: Callable[[], Ops]) -> None:
    model = sharp(attn_type_list=kinds)
    whole = logits(model, [TEXT, TEXT[::-1]]).split(len(TEXT))
    model.ops = ops()
    state = model.empty_state(2)
    if paged:
        config, size, pages = model.config, 4, np.arange(26, dtype=np.int64)
        table = PageTable((pages[::2].copy(), pages[1::2].copy()), (0, 0), size)
        pools = [torch.zeros(2, 26, size, config.num_key_value_heads, config.head_dim) for _ in state.softmax]
        state = replace(state, softmax=tuple(PagedKeyValues(pool, table) for pool in pools))
    done = [0, 0]
    for new in ([5, 9], [1, 1], [1, 1], [7, 1], [1, 11], [0, 2], [1, 1], [3, 3], [1, 1], [30, 20]):
        ids = [text[at : at + n] for text, at, n in zip((TEXT, TEXT[::-1]), done, new, strict=True)]
        asked = [(n + 1) // 2 for n in new]  # a tail of the new rows
        run = model.run(Batch.of(ids, state), state, logits=asked)
        assert run.logits is not None
        state, done = run.state, [at + n for at, n in zip(done, new, strict=True)]
        for told, text, at, n in zip(run.logits.split(asked), whole, done, asked, strict=True):
            torch.testing.assert_close(told, text[at - n : at], rtol=1e-3, atol=1e-4)
    assert done == [50, 50]


@torch.inference_mode()
def test_generate_agrees_with_one_pass() -> None:
    model = sharp()
    new = model.generate(torch.tensor([TEXT[:20]]), max_new_tokens=12)[0]
    assert torch.equal(logits(model, [new[:-1].tolist()])[19:].argmax(-1), new[20:])


def test_gradients_equal_the_references() -> None:
    grads = []
    for ops in (Ops.reference(), Ops.torch()):
        model = sharp().double()
        model.ops = ops
        logits(model, [TEXT]).log_softmax(-1)[:, 3].sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_bfloat16_stays_bfloat16() -> None:
    assert logits(sharp().bfloat16(), [TEXT]).isfinite().all()


def test_the_key_is_left_out_where_it_is_off() -> None:
    assert "softmax_log_n" not in tiny().to_dict()
    config = tiny().replace(softmax_log_n=2000)
    assert MiniMaxM1Config.from_dict(config.to_dict()) == config
    assert MiniMaxM1Config.from_dict(tiny().to_dict()).softmax_log_n == 0


@pytest.mark.parametrize("bad", [1, -2000, 2000.0, True, None])
def test_a_length_that_makes_no_sense_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="softmax_log_n must be 0 or an integer of at least 2"):
        tiny().replace(softmax_log_n=bad)
