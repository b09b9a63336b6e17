"""The weights of a run: started, kept in checkpoints and gone on from, and left as a model that anyone opens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minimax_m1.errors import DataError, ModelNotFound
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.lora import adapters, load_lora, merged_weights
from minimax_m1.train.weights import finish, keep, kept, started

TARGETS = ("q_proj", "qkv_proj")


def logits(model: MiniMaxM1ForCausalLM) -> Tensor:
    state = model.empty_state()
    told = model.run(Batch.of([list(range(5, 40))], state), state, logits="all").logits
    assert told is not None
    return told.detach()


def moved(start: Path | str, rank: int, targets: Sequence[str] = TARGETS) -> MiniMaxM1ForCausalLM:
    """A model that has learned something."""
    torch.manual_seed(0)
    model = started(str(start), "cpu", rank, 6.0, targets)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) * 0.1)
    return model


def same(one: MiniMaxM1ForCausalLM, two: MiniMaxM1ForCausalLM) -> bool:
    a, b = dict(one.named_parameters()), dict(two.named_parameters())
    return a.keys() == b.keys() and all(
        a[name].dtype == p.dtype and a[name].requires_grad == p.requires_grad and torch.equal(a[name], p)
        for name, p in b.items()
    )


@pytest.fixture(scope="module")
def half(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model in bfloat16, with settings of its own."""
    folder = tmp_path_factory.mktemp("half") / "model"
    MiniMaxM1ForCausalLM.from_pretrained(start, progress=False).to(torch.bfloat16).save_pretrained(folder)
    MiniMaxM1Tokenizer.from_pretrained(start).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.25}')
    (folder / "generation_config.json").chmod(0o444)
    return folder


def test_all_weights_are_trained_in_float32_and_adapters_beside_what_the_base_is(half: Path) -> None:
    model = started(str(half), "cpu", 0, 16.0, TARGETS)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and all(p.requires_grad for p in model.parameters())
    model = started(str(half), "cpu", 2, 16.0, TARGETS)
    assert model.dtype == torch.bfloat16
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == adapters(model).keys() and {p.dtype for p in trained.values()} == {torch.float32}
    assert torch.equal(logits(model), logits(MiniMaxM1ForCausalLM.from_pretrained(half, progress=False)))


def test_what_cannot_be_started_from_is_said(start: Path) -> None:
    with pytest.raises(ModelNotFound):
        started("runs/absent/model", "cpu", 0, 16.0, TARGETS)
    with pytest.raises(DataError, match="LoRA cannot adapt 'w13'"):
        started(str(start), "cpu", 2, 16.0, ["w13"])


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("base", ["start", "half"])
def test_a_checkpoint_gives_back_the_weights_to_the_bit(
    base: str, rank: int, tmp_path: Path, request: pytest.FixtureRequest, tokenizer: MiniMaxM1Tokenizer
) -> None:
    begun = str(request.getfixturevalue(base))
    model = moved(begun, rank)
    keep(model, tokenizer, tmp_path / "kept", begun, rank)
    again = kept(tmp_path / "kept", begun, "cpu", rank)
    assert same(again, model) and torch.equal(logits(again), logits(model))
    assert MiniMaxM1Tokenizer.from_pretrained(tmp_path / "kept").encode("a cat") == tokenizer.encode("a cat")
    assert (tmp_path / "kept" / "model.safetensors").exists() == (not rank)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_finished_model_is_plain_answers_the_same_and_stays_when_written_twice(
    rank: int, half: Path, tmp_path: Path, tokenizer: MiniMaxM1Tokenizer
) -> None:
    model = moved(half, rank)
    plain, before = merged_weights(model), logits(model)
    tuned = {name: p.detach().clone() for name, p in adapters(model).items()}
    finish(model, tokenizer, tmp_path, str(half), rank)
    found = MiniMaxM1ForCausalLM.from_pretrained(tmp_path, progress=False)
    assert found.state_dict().keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.state_dict().items())
    assert (logits(found) - before).norm() < (0.05 if rank else 1e-5) * before.norm()
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"do_sample": True, "temperature": 0.25}
    assert (tmp_path / "generation_config.json").stat().st_mode & 0o200  # though the start's may not be written
    assert (tmp_path / "adapter").exists() == bool(rank)
    if rank:
        adapted = MiniMaxM1ForCausalLM.from_pretrained(half, progress=False)
        load_lora(adapted, tmp_path / "adapter")
        assert all(torch.equal(p, tuned[name]) for name, p in adapters(adapted).items())


@pytest.mark.parametrize("settings", ["none of its own", "made from nothing"])
def test_without_settings_it_answers_greedily(
    settings: str, start: Path, tmp_path: Path, tokenizer: MiniMaxM1Tokenizer
) -> None:
    begun = tmp_path / "bare"
    model = MiniMaxM1ForCausalLM.from_pretrained(start, progress=False)
    model.save_pretrained(begun)
    finish(model, tokenizer, tmp_path / "out", "" if settings == "made from nothing" else str(begun), 0)
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert told == {"do_sample": False, "max_new_tokens": 2048}
