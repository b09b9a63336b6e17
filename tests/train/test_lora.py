"""LoRA: what is frozen and what is learned, merging, files in PEFT's format, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError, DataError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.names import published_tensors
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.lora import MIXERS, adapters, add_lora, load_lora, merge, save_lora

TEXTS = [list(range(5, 40)), [7], list(range(30, 20, -1))]


def made(config: MiniMaxM1Config | None = None, seed: int = 0) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(seed)
    return MiniMaxM1ForCausalLM(config or tiny())


def adapted(seed: int = 1, rank: int = 3, dtype: torch.dtype = torch.float32) -> MiniMaxM1ForCausalLM:
    """A model with adapters that do something."""
    model = made().to(dtype)
    add_lora(model, rank, 6.0)
    generator = torch.Generator().manual_seed(seed)
    for p in adapters(model).values():
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def logits(model: MiniMaxM1ForCausalLM) -> Tensor:
    state = model.empty_state(len(TEXTS))
    told = model.run(Batch.of(TEXTS, state), state, logits="all").logits
    assert told is not None
    return told


def test_a_fresh_adapter_changes_nothing_and_only_adapters_are_trained() -> None:
    model = made()
    before, base = logits(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    add_lora(model)
    assert torch.equal(logits(model), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == adapters(model).keys() and len(trained) == 2 * (3 * 3 + 4)
    optimizer = torch.optim.AdamW(adapters(model).values(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = -logits(model).log_softmax(-1)[:, 5].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.4
    assert all(torch.equal(dict(model.named_parameters())[name], p) for name, p in base.items())


def test_the_product_is_scaled_by_alpha_over_rank() -> None:
    model = adapted(rank=3, dtype=torch.float64)
    name = "model.layers.3.self_attn.q_proj"
    low, high = (adapters(model)[f"{name}.lora_{factor}.weight"].detach().clone() for factor in "AB")
    plain = made().double()
    expected = plain.get_parameter(f"{name}.weight") + 6 / 3 * high @ low
    merge(model)
    torch.testing.assert_close(model.get_parameter(f"{name}.weight"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_merged_equals_adapted_and_has_the_published_names(dtype: torch.dtype) -> None:
    model = adapted(dtype=dtype)
    plain, told = logits(made().to(dtype)), logits(model)
    assert (told - plain).abs().max() > 0.3 * plain.abs().max()
    merge(model)
    gap = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]
    assert (logits(model) - told).norm() < gap * told.norm()
    assert model.state_dict().keys() == published_tensors(model.config).keys() and model.dtype == dtype
    assert not adapters(model) and all(p.requires_grad for p in model.parameters())


def test_adapters_stay_float32_on_a_bfloat16_base() -> None:
    model = adapted().to(torch.bfloat16)
    assert {p.dtype for p in adapters(model).values()} == {torch.float32} and model.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        logits(model).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapters(model).values())


@torch.inference_mode()
def test_compiled_decode_steps_see_the_adapters() -> None:
    model = adapted().eval()
    told = []
    for ops in (Ops.torch(), Ops.cpu()):
        model.ops = ops
        told.append(model.generate(torch.tensor([[5, 9, 2]]), max_new_tokens=20))
    merge(model)
    told.append(model.generate(torch.tensor([[5, 9, 2]]), max_new_tokens=20))
    assert torch.equal(told[0], told[1]) and torch.equal(told[0], told[2])


def test_gradients_equal_the_references() -> None:
    grads = []
    for ops in (Ops.reference(), Ops.torch()):
        model = adapted(dtype=torch.float64)
        model.ops = ops
        state = model.empty_state(len(TEXTS))
        run = model.run(Batch.of(TEXTS, state), state, logits="all", head=False, recompute=True)
        assert run.hidden is not None
        ops.head(run.hidden, model.lm_head.weight, torch.arange(len(run.hidden))).logprob.sum().backward()
        grads.append([p.grad for p in adapters(model).values()])
        assert model.lm_head.weight.grad is None
    for mine, theirs in zip(*grads, strict=True):
        assert mine is not None and theirs is not None and mine.any()
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kinds", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_any_layer_pattern_has_something_to_adapt(kinds: tuple[int, ...]) -> None:
    model = made(tiny().replace(attn_type_list=kinds))
    add_lora(model)
    assert len(adapters(model)) == 2 * 4 * (4 if kinds[0] else 3)


def test_targets_may_be_chosen_the_shared_expert_too() -> None:
    model = made(tiny().replace(shared_intermediate_size=24))
    add_lora(model, targets=["gate_proj", "o_proj"])
    assert {name.split(".")[4] for name in adapters(model)} == {"gate_proj", "o_proj"}


def test_it_is_saved_as_peft_saves_it_and_loads_again(tmp_path: Path) -> None:
    model = adapted()
    save_lora(model, tmp_path, "nano")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight" in tensors and len(tensors) == 26
    assert tensors["base_model.model.model.layers.3.self_attn.o_proj.lora_B.weight"].shape == (32, 3)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert config["target_modules"] == sorted(MIXERS) and config["base_model_name_or_path"] == "nano"
    again = made()
    load_lora(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert {name for name, p in again.named_parameters() if p.requires_grad} == adapters(model).keys()


def test_files_that_adapt_some_layers_only_are_taken_as_they_are(tmp_path: Path) -> None:
    model = adapted()
    save_lora(model, tmp_path, "nano")
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if ".layers.1." in name}, file)
    again = made()
    load_lora(again, tmp_path)
    assert len(adapters(again)) == 6 and all(".layers.1." in name for name in adapters(again))


@pytest.mark.parametrize(
    ("rank", "alpha", "targets", "says"),
    [
        (0, 16.0, MIXERS, "rank of at least 1"),
        (8, 0.0, MIXERS, "alpha above 0"),
        (8, float("nan"), MIXERS, "alpha above 0"),
        (
            8,
            16.0,
            ["w1"],
            "cannot adapt 'w1'.*k_proj, o_proj, out_proj, output_gate, q_proj, qkv_proj, v_proj .experts",
        ),
        (8, 16.0, ["q_proj", "lm_head"], "cannot adapt 'lm_head'"),
        (8, 16.0, ["coefficient"], "cannot adapt 'coefficient'"),
        (8, 16.0, [], "nothing to adapt"),
    ],
)
def test_what_cannot_be_adapted_is_refused(rank: int, alpha: float, targets: list[str], says: str) -> None:
    model = made()
    with pytest.raises(DataError, match=says):
        add_lora(model, rank, alpha, targets)
    assert all(p.requires_grad for p in model.parameters())


def test_an_int8_base_and_a_second_adapter_are_refused() -> None:
    with pytest.raises(DataError, match="weights are int8: load it without quantization"):
        add_lora(made(tiny().replace(quantization="int8")))
    with pytest.raises(DataError, match="adapters already"):
        add_lora(adapted())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "LOHA"}, "describes no LoRA adapter"),
        ({"use_dora": True}, "use_dora True"),
        ({"use_rslora": True}, "use_rslora True"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 4}, r"\[3, 32\] for model.layers.0.self_attn.out_proj.lora_A.*rank of 4 need \[4, 32\]"),
        ({"r": "8"}, "no usable adapter: r 8"),
        ({"lora_alpha": None}, "lora_alpha None"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    save_lora(adapted(), tmp_path, "nano")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=says):
        load_lora(made(), tmp_path)


def test_files_that_are_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks adapter_config"):
        load_lora(made(), tmp_path)
    save_lora(adapted(), tmp_path, "nano")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight"
    for changed, says in (
        ({"base_model.model.model.layers.9.x.lora_A.weight": torch.ones(3)}, "layers.9.x.*adapts no linear map"),
        ({name: torch.ones(3, 2)}, r"has \[3, 2\] for model.layers.3.self_attn.q_proj.lora_B"),
    ):
        save_file({**tensors, **changed}, file)
        with pytest.raises(CheckpointError, match=says):
            load_lora(made(), tmp_path)
    save_file({key: t for key, t in tensors.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=r"has nothing for model.layers.3.self_attn.q_proj.lora_B"):
        load_lora(made(), tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cut or damaged"):
        load_lora(made(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_lora(made(), tmp_path)
