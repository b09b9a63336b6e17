"""The fingerprint changes with everything that changes what a token does to the state, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimax_m1.errors import CheckpointError, ConfigError
from minimax_m1.model import fingerprint as module
from minimax_m1.model.fingerprint import fingerprint
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = MiniMaxM1Tokenizer.train(["hello there"], vocab_size=300)
    torch.manual_seed(0)
    MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def _set(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def _last_value(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][-1] += 1e-6


def _narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})


def _swap(tensors: dict[str, torch.Tensor]) -> None:
    first, second = "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight"
    tensors[first], tensors[second] = tensors[second] + 1, tensors[first]


def _vocabulary(folder: Path) -> None:
    MiniMaxM1Tokenizer.train(["other words, other words"], vocab_size=300).save_pretrained(folder)


@pytest.mark.parametrize("whole", [True, False], ids=["read whole", "sampled"])
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _set(folder, rope_theta=5.0),
        lambda folder: _set(folder, num_experts_per_tok=1),
        lambda folder: _set(folder, layernorm_mlp_alpha=3.0),
        _change_weights(_last_value),
        _change_weights(_narrow),
        _change_weights(_swap),
        _vocabulary,
    ],
    ids=["rotary base", "experts", "scale", "one value", "dtype", "two tensors swapped", "vocabulary"],
)
def test_another_model_has_another_fingerprint(
    model: Path, copy: Path, whole: bool, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(module, "_WHOLE", 0)
    before = fingerprint(model)
    change(copy)
    assert fingerprint(copy) != before and fingerprint(model) == before
    assert len(before) == 64 and int(before, 16)


def test_what_is_not_computed_with_does_not_matter(model: Path, copy: Path) -> None:
    _set(copy, max_position_embeddings=123_456, router_jitter_noise=0.5, transformers_version="9", use_cache=False)
    (copy / "generation_config.json").write_text("{}")
    for file in copy.iterdir():
        os.utime(file, (0, 0))
    assert fingerprint(copy) == fingerprint(model)


def test_a_large_checkpoint_is_sampled_and_not_read_through(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE", 0)
    sizes = [len(data) for _, data in module._samples(model / "model.safetensors", False)]
    assert max(sizes) == 3 * 256 and sum(sizes) < (model / "model.safetensors").stat().st_size / 2


def test_a_vocabulary_elsewhere_counts(model: Path, copy: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    assert fingerprint(copy, model) == fingerprint(model) != fingerprint(copy)


def test_files_that_are_cut_or_missing_are_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for cut in (whole[:-1], whole[:100], b"", b"\xff" * 100):
        weights.write_bytes(cut)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is cut or damaged"):
            fingerprint(copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        fingerprint(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match="no configuration at"):
        fingerprint(copy)


def test_nano_is_told_in_a_moment() -> None:
    from minimax_m1.location import locate

    assert fingerprint(locate("nano")) == fingerprint(locate("nano"))
