"""int8 weights: what is rounded and what is not, how far the answers move, how they are kept, what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimax_m1.errors import CheckpointError, ConfigError, RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8
from minimax_m1.model.names import is_scale, published_tensors, quantizable, scale_of
from minimax_m1.model.quantization import Int8Linear
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import m1, tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

NANO = Path(str(files("minimax_m1"))) / "assets" / "nano"
IDS = torch.arange(20)[None]


def load(folder: Path, quantization: str | None = None, **options: object) -> MiniMaxM1ForCausalLM:
    return MiniMaxM1ForCausalLM.from_pretrained(folder, quantization=quantization, progress=False, **options)  # type: ignore[arg-type]


def rounded(model: MiniMaxM1ForCausalLM, folder: Path) -> MiniMaxM1ForCausalLM:
    """The model saved in floating point and loaded in int8."""
    model.save_pretrained(folder)
    return load(folder, "int8")


def test_what_the_published_int8_loading_leaves_alone_is_left_alone() -> None:
    shared = m1().replace(shared_intermediate_size=64)
    kept = {re.sub(r"\.\d+\.", ".N.", name) for name in published_tensors(shared) if not quantizable(name)}
    assert kept == {
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.N.input_layernorm.weight",
        "model.layers.N.post_attention_layernorm.weight",
        "model.layers.N.self_attn.norm.weight",
        "model.layers.N.block_sparse_moe.gate.weight",
        "model.layers.N.coefficient.weight",
    }


def test_a_quantised_model_holds_a_byte_a_weight(model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    small = rounded(model.to(torch.bfloat16), tmp_path)
    assert small.config == model.config.replace(quantization="int8") and small.dtype == torch.bfloat16
    state, exact = small.state_dict(), model.state_dict()
    assert {n: tuple(t.shape) for n, t in state.items()} == published_tensors(small.config)
    for name, tensor in state.items():
        if is_scale(name):
            assert tensor.dtype == torch.float32
        elif quantizable(name):
            expected = Int8.of(exact[name])
            assert tensor.dtype == torch.int8 and torch.equal(tensor, expected.values)
            assert torch.equal(state[scale_of(name)], expected.scales[:, None])
        else:
            assert torch.equal(tensor, exact[name])


def test_a_quantised_map_is_within_half_a_step_of_each_weight() -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(40, 33), torch.randn(7, 33)
    weight[3] = 0
    out = Int8Linear(Int8.of(weight))(x, Ops.torch())
    bound = weight.abs().amax(1) / 127 / 2 * x.abs().sum(1, keepdim=True)
    assert (out - x @ weight.T).abs().le(bound + 1e-5).all()
    assert (out - x @ weight.T).abs().max() > 1e-4


@pytest.mark.parametrize("ops", [Ops.reference, Ops.torch, Ops.cpu])
def test_each_record_of_kernels_computes_what_the_rounded_weights_say(
    tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path, ops: object
) -> None:
    small = rounded(tiny_model, tmp_path)
    small.ops = ops()  # type: ignore[operator]
    with torch.no_grad():
        for name, weight in tiny_model.state_dict().items():
            if quantizable(name):
                weight.copy_(Int8.of(weight).dequantized(torch.float32))
        assert torch.allclose(small(IDS).logits, tiny_model(IDS).logits, atol=2e-5)
        first, second = small(IDS[:, :12]), tiny_model(IDS)  # and token by token
        state = first.state
        for at in range(12, 20):
            step = small(IDS[:, at : at + 1], state=state)
            state = step.state
            assert torch.allclose(step.logits[0, 0], second.logits[0, at], atol=2e-5)


@pytest.mark.skipif(not (NANO / "model.safetensors").is_file(), reason="nano's weights are not here yet")
def test_nano_adds_as_before_and_its_logits_hardly_move() -> None:
    words, exact, small = MiniMaxM1Tokenizer.from_pretrained(NANO), load(NANO), load(NANO, "int8")
    with torch.no_grad():
        for text in ("2 + 2 =", "17 + 25 =", "48 + 36 ="):
            ids = words(text, return_tensors="pt")["input_ids"]
            logits, near = exact(ids).logits, small(ids).logits
            assert (near - logits).norm() < 0.1 * logits.norm()
            answers = [model.generate(ids, max_new_tokens=6) for model in (exact, small)]
            assert torch.equal(*answers)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_saved_weights_come_back_to_the_bit(model: MiniMaxM1ForCausalLM, tmp_path: Path, max_shard_bytes: int) -> None:
    small = rounded(model, tmp_path)
    small.save_pretrained(tmp_path / "small", max_shard_bytes=max_shard_bytes)
    for asked in (None, "int8"):
        again = load(tmp_path / "small", asked)
        assert again.config == small.config
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items())
        assert torch.equal(again(IDS).logits, small(IDS).logits)


def test_a_saved_folder_speaks_compressed_tensors(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    rounded(tiny_model, tmp_path).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert "quantization" not in told
    assert told["quantization_config"]["quant_method"] == "compressed-tensors"
    assert told["quantization_config"]["format"] == "int-quantized"
    ignored = [name.removeprefix("re:") for name in told["quantization_config"]["ignore"]]
    kept = [n.removesuffix(".weight") for n in published_tensors(tiny_model.config) if not quantizable(n)]
    assert all(any(re.fullmatch(each, n) for each in ignored) for n in kept if "norm" not in n)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.out_proj.weight"
    assert stored[name].dtype == torch.int8 and stored[scale_of(name)].shape == (len(stored[name]), 1)


def test_state_dicts_copies_and_moves_keep_int8(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    small = rounded(tiny_model, tmp_path)
    logits = small(IDS).logits
    torch.manual_seed(5)
    other = MiniMaxM1ForCausalLM(small.config)
    assert not torch.equal(other(IDS).logits, logits)
    other.load_state_dict(small.state_dict())
    taken = MiniMaxM1ForCausalLM(small.config)
    taken.load_state_dict(small.state_dict(), assign=True)
    for each in (other, taken, copy.deepcopy(small), pickle.loads(pickle.dumps(small)), small.to("cpu")):
        assert torch.equal(each(IDS).logits, logits)
    half = small.to(torch.bfloat16)
    kinds = {str(tensor.dtype) for name, tensor in half.state_dict().items() if quantizable(name) or is_scale(name)}
    assert kinds == {"torch.int8", "torch.float32"} and half.dtype == torch.bfloat16
    assert torch.allclose(half(IDS).logits, logits, atol=0.1)


def test_there_is_nothing_to_train(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    small = rounded(tiny_model, tmp_path)
    assert not small.training and not small(IDS).logits.requires_grad
    with pytest.raises(RequestError, match="int8 weights cannot be trained"):
        small.train()
    small.requires_grad_()
    with pytest.raises(RequestError, match="gives no gradients; load the checkpoint in floating point"):
        small(IDS)
    with torch.no_grad():
        small.eval()(IDS)


def test_an_unknown_quantisation_is_one_sentence(tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r'quantization must be null or "int8", got \'int3\''):
        load(tmp_path, "int3")


def test_files_that_are_not_what_their_configuration_says_are_refused(
    tiny_model: MiniMaxM1ForCausalLM, tmp_path: Path
) -> None:
    rounded(tiny_model, tmp_path).save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.0.self_attn.out_proj.weight"
    stored, config = load_file(file), (tmp_path / "config.json").read_text()
    save_file({**stored, name: stored[name].float()}, file)
    with pytest.raises(CheckpointError, match=r"out_proj\.weight in .* is F32; by the config\.json .* be I8"):
        load(tmp_path)
    save_file({n: t for n, t in stored.items() if n != scale_of(name)}, file)
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.0\.self_attn\.out_proj\.weight_scale"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_model.config.to_dict()))
    save_file(stored, file)
    with pytest.raises(CheckpointError, match=r"holds .*weight_scale"):
        load(tmp_path)
    save_file({n: t for n, t in stored.items() if not is_scale(n)}, file)
    with pytest.raises(CheckpointError, match=r"is I8; by the config\.json .* of a floating-point dtype"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(config)


LOADING = """
import sys, threading
import torch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

def held(key):  # bytes
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

torch.zeros(8, 8) @ torch.zeros(8, 8)
before, all_before = held("RssAnon"), held("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
model = MiniMaxM1ForCausalLM.from_pretrained(sys.argv[1], quantization="int8", progress=False)
size = sum(tensor.nbytes for tensor in model.state_dict().values())
print(size, held("RssAnon") - before, held("VmHWM") - all_before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_little_more_memory_than_the_quantised_model(tmp_path: Path) -> None:
    config = tiny().replace(hidden_size=768, intermediate_size=1024, num_local_experts=32)
    torch.manual_seed(0)
    MiniMaxM1ForCausalLM(config).save_pretrained(tmp_path)  # 1.2 GB in one file
    told = subprocess.run([sys.executable, "-c", LOADING, tmp_path], check=True, capture_output=True, text=True)
    size, kept, peak = (int(each) for each in told.stdout.split())
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert size < 0.3 * stored
    assert kept < 1.1 * size
    assert peak < size + 250e6 < 0.6 * stored  # of the open file, 128 MiB count as memory
