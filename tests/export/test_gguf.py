"""The GGUF file as a reader finds it: names, values, numbers, words; and what is refused.

The judge is llama.cpp itself, in benchmarks/judge_llama_cpp.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.export.gguf import Exported, WeightType, export_gguf
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

WORDS = MiniMaxM1Tokenizer.from_pretrained
CONFIG = tiny().replace(vocab_size=520, hidden_size=64, intermediate_size=32, lightning_norm_eps=1e-5)


def written(folder: Path, config: MiniMaxM1Config, type: WeightType | None = "f32", **to: Any) -> tuple[Path, Exported]:
    """A random model with nano's tokenizer, and its GGUF."""
    torch.manual_seed(0)
    MiniMaxM1ForCausalLM(config).to(**to).save_pretrained(folder / "model")
    WORDS("nano").save_pretrained(folder / "model")
    return folder / "model", export_gguf(folder / "model", folder / "model.gguf", type=type, progress=False)


def tensors(file: Path) -> dict[str, tuple[GGMLQuantizationType, np.ndarray[Any, Any]]]:
    """Each tensor's type, and its values in float32."""
    return {
        tensor.name: (tensor.tensor_type, quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in GGUFReader(file).tensors
    }


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def published(config: MiniMaxM1Config) -> dict[str, tuple[str, ...]]:
    """Names in the file, and the published tensors that each is made of."""
    names = {"token_embd": ("model.embed_tokens",), "output_norm": ("model.norm",), "output": ("lm_head",)}
    shared = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_gate_inp": "gate"}
    lightning = {"attn_qkv": "qkv_proj", "attn_gate": "output_gate", "attn_norm_2": "norm", "attn_output": "out_proj"}
    softmax = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
    experts = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
    for layer, kind in enumerate(config.attn_type_list):
        ours = f"model.layers.{layer}"
        for theirs, part in shared.items():
            names[f"blk.{layer}.{theirs}"] = (f"{ours}.{'block_sparse_moe.' if part == 'gate' else ''}{part}",)
        for theirs, part in (softmax if kind else lightning).items():
            names[f"blk.{layer}.{theirs}"] = (f"{ours}.self_attn.{part}",)
        for theirs, part in experts.items():
            names[f"blk.{layer}.{theirs}"] = tuple(
                f"{ours}.block_sparse_moe.experts.{expert}.{part}" for expert in range(config.num_local_experts)
            )
    return {f"{theirs}.weight": tuple(f"{part}.weight" for part in parts) for theirs, parts in names.items()}


def expected(folder: Path, config: MiniMaxM1Config) -> dict[str, np.ndarray[Any, Any]]:
    stored = load_file(folder / "model.safetensors")
    made = {name: [stored[part].float().numpy() for part in parts] for name, parts in published(config).items()}
    return {name: np.stack(parts) if name.endswith("exps.weight") else parts[0] for name, parts in made.items()}


def read_back(file: Path, config: MiniMaxM1Config) -> MiniMaxM1ForCausalLM:
    """Our model with the file's weights, computing as llama.cpp does: one epsilon, one residual factor, no beta."""
    numbers, found = fields(file), tensors(file)
    alpha, eps = numbers["minimax-01.residual_scale"], numbers["minimax-01.attention.layer_norm_rms_epsilon"]
    parts = ("full_attention", "linear_attention", "mlp")
    plain = {f"layernorm_{p}_alpha": alpha for p in parts} | {f"layernorm_{p}_beta": 1.0 for p in parts}
    plain |= {"rms_norm_eps": eps, "lightning_norm_eps": eps, "tie_word_embeddings": False}
    state = {}
    for name, names in published(config).items():
        values = torch.tensor(found[name if name in found else "token_embd.weight"][1])
        state |= dict(zip(names, values if name.endswith("exps.weight") else [values], strict=True))
    model = MiniMaxM1ForCausalLM(config.replace(**plain), init=False)
    model.load_state_dict(state)
    return model.eval()


def test_every_tensor_is_there_under_llama_cpps_name_and_float32_is_exact(tmp_path: Path) -> None:
    folder, done = written(tmp_path, CONFIG)
    found, wanted = tensors(done.file), expected(folder, CONFIG)
    assert found.keys() == wanted.keys() and done.tensors == len(wanted)
    for name, (kind, values) in found.items():
        assert kind == GGMLQuantizationType.F32
        assert np.array_equal(values, wanted[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_rounds_to_nearest_and_leaves_norms_and_routers_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, done = written(tmp_path, CONFIG, "bf16", dtype=dtype)
    wanted = expected(folder, CONFIG)
    for name, (kind, values) in tensors(done.file).items():
        if "norm" in name or "gate_inp" in name:
            assert kind == GGMLQuantizationType.F32 and np.array_equal(values, wanted[name]), name
        else:
            rounded = torch.tensor(wanted[name]).bfloat16().float().numpy()
            assert kind == GGMLQuantizationType.BF16 and np.array_equal(values, rounded), name


def test_q8_0_is_within_half_a_step_of_its_block(tmp_path: Path) -> None:
    config = CONFIG.replace(intermediate_size=16)  # rows of 16 are no block: these stay in bfloat16
    folder, done = written(tmp_path, config, "q8_0")
    wanted = expected(folder, config)
    for name, (kind, values) in tensors(done.file).items():
        if "down_exps" in name:
            assert kind == GGMLQuantizationType.BF16
        elif "norm" in name or "gate_inp" in name:
            assert kind == GGMLQuantizationType.F32
        else:
            assert kind == GGMLQuantizationType.Q8_0
            blocks, kept = (array.reshape(-1, 32) for array in (wanted[name], values))
            step = np.abs(blocks).max(-1, keepdims=True) / 127
            assert (np.abs(blocks - kept) <= step * (0.5 + 127 * 2**-11)).all(), name  # the step itself is a float16


@pytest.mark.parametrize(
    "changes",
    [
        {"lightning_norm_eps": 1e-6},
        {"lightning_norm_eps": 0.03, "tie_word_embeddings": True},
        {"layernorm_mlp_beta": 0.7, "layernorm_linear_attention_beta": 1.3, "layernorm_full_attention_beta": 0.4},
    ],
)
def test_what_llama_cpp_lacks_is_folded_into_the_weights(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = CONFIG.replace(**changes)
    folder, done = written(tmp_path, config)
    ids = torch.arange(40)[None]
    ours = MiniMaxM1ForCausalLM.from_pretrained(folder, dtype=torch.float64, progress=False)
    theirs = read_back(done.file, config).double()
    with torch.inference_mode():
        logits = ours(ids).logits
        assert (theirs(ids).logits - logits).norm() < 1e-5 * logits.norm()


def test_a_scale_that_is_a_power_of_two_leaves_bfloat16_unrounded(tmp_path: Path) -> None:
    config = CONFIG.replace(lightning_norm_eps=1e-6)
    folder, done = written(tmp_path, config, "bf16", dtype=torch.bfloat16)
    found, wanted = tensors(done.file), expected(folder, config)
    assert np.array_equal(found["token_embd.weight"][1], wanted["token_embd.weight"] / 4)
    assert fields(done.file)["minimax-01.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5 / 16)


def test_the_header_tells_the_shape_and_the_words(tmp_path: Path) -> None:
    folder, done = written(tmp_path, CONFIG)
    found, tokenizer = fields(done.file), WORDS(folder)
    numbers = {name.removeprefix("minimax-01."): value for name, value in found.items() if name.startswith("minimax")}
    assert found["general.architecture"] == "minimax-01" and found["general.name"] == "model"
    assert numbers == {
        "block_count": CONFIG.num_hidden_layers,
        "context_length": CONFIG.max_position_embeddings,
        "embedding_length": 64,
        "feed_forward_length": 32,
        "vocab_size": 520,
        "expert_count": CONFIG.num_local_experts,
        "expert_used_count": CONFIG.num_experts_per_tok,
        "attention.head_count": CONFIG.num_attention_heads,
        "attention.head_count_kv": CONFIG.num_key_value_heads,
        "attention.key_length": CONFIG.head_dim,
        "attention.value_length": CONFIG.head_dim,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "attention.recurrent_layers": [kind == 0 for kind in CONFIG.attn_type_list],
        "rope.dimension_count": CONFIG.rotary_dim,
        "rope.freq_base": CONFIG.rope_theta,
        "residual_scale": pytest.approx(CONFIG.layernorm_mlp_alpha),
    }
    words = {name.removeprefix("tokenizer."): value for name, value in found.items() if name.startswith("tokenizer.")}
    assert words.pop("ggml.tokens") == [tokenizer.id_to_token(id) for id in range(512)] + [
        f"[PAD{id}]" for id in range(512, 520)
    ]
    assert words.pop("ggml.token_type") == [1] * 503 + [3] * 5 + [4] * 4 + [5] * 8
    merges = words.pop("ggml.merges")
    assert len(merges) == 247 and merges[0].count(" ") == 1
    assert words == {
        "ggml.model": "gpt2",
        "ggml.pre": "superbpe",
        "ggml.bos_token_id": tokenizer.bos_token_id,
        "ggml.eos_token_id": tokenizer.eos_token_id,
        "ggml.padding_token_id": tokenizer.pad_token_id,
        "ggml.add_bos_token": False,
        "ggml.add_eos_token": False,
        "ggml.add_space_prefix": False,
        "chat_template": tokenizer.chat_template,
    }
    assert (done.split, done.loose_merges) == ("superbpe", 0)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("postnorm", {"postnorm": False}),
        ("shared_intermediate_size", {"shared_intermediate_size": 24}),
        ("num_attention_heads", {"num_attention_heads": 6, "num_key_value_heads": 1}),
        ("attn_type_list", {"attn_type_list": (0, 0, 0, 0)}),
        ("attn_type_list", {"attn_type_list": (1, 1, 1, 1)}),
        ("rotary_dim", {"rotary_dim": 0}),
        ("softmax_log_n", {"softmax_log_n": 4096}),
        ("layernorm_linear_attention_alpha", {"layernorm_linear_attention_alpha": 1.5}),
        ("layernorm_full_attention_alpha", {"layernorm_full_attention_alpha": 1.5}),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_by_name(tmp_path: Path, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=field) as refused:
        written(tmp_path, CONFIG.replace(**changes))
    assert refused.value.param == field
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_type_of_the_weights_is_the_default(tmp_path: Path) -> None:
    assert written(tmp_path, CONFIG, None, dtype=torch.bfloat16)[1].type == "bf16"
    assert written(tmp_path, CONFIG, None)[1].type == "f32"


def test_int8_weights_are_multiplied_by_their_scales_and_go_to_q8_0_by_default(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, CONFIG)
    held = MiniMaxM1ForCausalLM.from_pretrained(folder, quantization="int8", progress=False)
    held.save_pretrained(folder)
    assert export_gguf(folder, tmp_path / "a.gguf", progress=False).type == "q8_0"
    found = tensors(export_gguf(folder, tmp_path / "b.gguf", type="f32", progress=False).file)
    stored, name = load_file(folder / "model.safetensors"), "model.layers.0.self_attn.qkv_proj.weight"
    values = stored[name].float() * stored[f"{name}_scale"]
    assert stored[name].dtype == torch.int8
    assert np.array_equal(found["blk.0.attn_qkv.weight"][1], values.numpy())


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    folder, done = written(tmp_path, CONFIG)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError):
        export_gguf(folder, done.file, progress=False)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, done = written(tmp_path, CONFIG)
    before = done.file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("minimax_m1.export.gguf.quants.quantize", full)
    with pytest.raises(OSError, match="no space"):
        export_gguf(folder, done.file, type="q8_0", progress=False)
    assert done.file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.gguf"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no folder"):
        export_gguf("nano", tmp_path / "nowhere" / "x.gguf")
