"""Checkpoints: the published names both ways, shards, dtypes, and what is refused by name."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimax_m1.errors import CheckpointError, ConfigError, ModelNotFound
from minimax_m1.model.names import published_tensors
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

IDS = torch.arange(20)[None]


def load(folder: Path, **options: object) -> MiniMaxM1ForCausalLM:
    return MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_save_and_load(model: MiniMaxM1ForCausalLM, tmp_path: Path, max_shard_bytes: int) -> None:
    model.save_pretrained(tmp_path, max_shard_bytes=max_shard_bytes)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (max_shard_bytes == 20_000) == (tmp_path / "model.safetensors.index.json").exists()
    stored = {name: t for file in files for name, t in load_file(tmp_path / file).items()}
    assert {n: tuple(t.shape) for n, t in stored.items()} == published_tensors(model.config)
    again = load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_state_dict_speaks_the_published_names(model: MiniMaxM1ForCausalLM) -> None:
    state = model.state_dict()
    assert {n: tuple(t.shape) for n, t in state.items()} == published_tensors(model.config)
    other = MiniMaxM1ForCausalLM(model.config).eval()
    assert not torch.equal(other(IDS).logits, model(IDS).logits)
    other.load_state_dict(state)
    assert torch.equal(other(IDS).logits, model(IDS).logits)


def test_a_copy_speaks_for_itself(tiny_model: MiniMaxM1ForCausalLM) -> None:
    copies = [copy.deepcopy(tiny_model), pickle.loads(pickle.dumps(tiny_model))]
    for other in copies:
        with torch.no_grad():
            other.model.norm.weight.mul_(2)
        assert torch.equal(other.state_dict()["model.norm.weight"], 2 * tiny_model.state_dict()["model.norm.weight"])


def test_load_state_dict_names_what_is_missing(tiny_model: MiniMaxM1ForCausalLM) -> None:
    state = tiny_model.state_dict()
    del state["model.layers.1.block_sparse_moe.experts.2.w1.weight"]
    with pytest.raises(RuntimeError, match="experts"):
        tiny_model.load_state_dict(state)


def test_the_router_is_stored_in_float32(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    wide = {name for name, t in stored.items() if t.dtype == torch.float32}
    assert wide == {n for n in stored if n.endswith("block_sparse_moe.gate.weight")}
    assert load(tmp_path).dtype == torch.bfloat16
    assert load(tmp_path, dtype="float32").dtype == torch.float32
    assert load(tmp_path, dtype=torch.float64).dtype == torch.float64


def test_transformers_spelling_of_the_configuration(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    kinds = {0: "linear_attention", 1: "full_attention"}
    keys["layer_types"] = [kinds[k] for k in keys.pop("attn_type_list")]
    for part, name in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp")):
        for factor in ("alpha", "beta"):
            keys[f"{name}_{factor}_factor"] = keys.pop(f"layernorm_{part}_{factor}")
    keys["rope_parameters"] = {"rope_theta": keys.pop("rope_theta"), "rope_type": "default"}
    keys["partial_rotary_factor"] = keys.pop("rotary_dim") / keys["head_dim"]
    keys["model_type"] = "minimax"
    (tmp_path / "config.json").write_text(json.dumps(keys))
    assert load(tmp_path).config == tiny_model.config


def test_derived_buffers_in_a_file_are_passed_over(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.self_attn.slope_rate"] = torch.zeros(4, 1, 1)
    save_file(stored, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(IDS).logits, tiny_model(IDS).logits)


def test_a_shared_expert_as_wide_as_the_others_is_read(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    config = tiny_model.config.replace(shared_intermediate_size=tiny_model.config.intermediate_size)
    wide = MiniMaxM1ForCausalLM(config).eval()
    wide.save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**keys, "shared_intermediate_size": 7}))
    assert torch.equal(load(tmp_path)(IDS).logits, wide(IDS).logits)


def broken(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    stored = load_file(folder / "model.safetensors")
    if tensor is None:
        del stored[name]
    else:
        stored[name] = tensor
    save_file(stored, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.layers.0.self_attn.norm.weight", None, r"lacks model\.layers\.0\.self_attn\.norm\.weight"),
        ("model.norm.weight", torch.ones(31), r"model\.norm\.weight .* shape \[31\], the configuration says \[32\]"),
        ("model.layers.9.odd", torch.ones(1), r"holds model\.layers\.9\.odd"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tiny_model.save_pretrained(tmp_path)
    broken(tmp_path, name, tensor)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 300, -10])
def test_a_cut_file_is_refused(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path, keep: int) -> None:
    tiny_model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cut or damaged"):
        load(tmp_path)


def test_missing_parts_are_named(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no configuration"):
        load(tmp_path)
    tiny_model.save_pretrained(tmp_path, max_shard_bytes=20_000)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks the shard model-00002"):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        load(tmp_path)


def test_an_unknown_dtype_is_refused(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="int3"):
        load(tmp_path, dtype="int3")
