"""The configuration of a model of the family: official keys in, official keys out.

In: a mapping or a `config.json` with the published keys (MiniMax-Text-01, MiniMax-M1) or with the
spelling of the `-hf` repositories (transformers' `minimax`). Out: one frozen `MiniMaxM1Config`,
checked, so that every later floor may trust it. Knows nothing of torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from minimax_m1.errors import ConfigError

LIGHTNING, SOFTMAX = 0, 1

# Published keys that say nothing about the architecture; they are read past without a word.
_IGNORED = frozenset(
    """architectures auto_map attention_dropout transformers_version torch_dtype dtype use_cache
    output_router_logits model_type sliding_window pad_token_id _name_or_path tie_encoder_decoder
    layer_types rope_parameters rope_scaling partial_rotary_factor block_size attention_bias
    output_attentions output_hidden_states return_dict is_decoder is_encoder_decoder
    problem_type chunk_size_feed_forward id2label label2id cache_implementation
    num_experts mlp_bias""".split()
)

# transformers' names -> the published ones (reference: modular_minimax.py).
_HF_NAMES = {
    "full_attn_alpha_factor": "layernorm_full_attention_alpha",
    "full_attn_beta_factor": "layernorm_full_attention_beta",
    "linear_attn_alpha_factor": "layernorm_linear_attention_alpha",
    "linear_attn_beta_factor": "layernorm_linear_attention_beta",
    "mlp_alpha_factor": "layernorm_mlp_alpha",
    "mlp_beta_factor": "layernorm_mlp_beta",
}
_HF_LAYER_TYPES: dict[Any, int] = {"linear_attention": LIGHTNING, "full_attention": SOFTMAX}

# int8 weights, a scale a row, as compressed-tensors writes them (its format "int-quantized"): of the standard forms the
# one whose tensors are just what we hold. `ignore` is the list that MiniMax's own int8 loading leaves alone.
_INT8_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
_INT8: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _INT8_WEIGHTS,
            "input_activations": None,
            "output_activations": None,
        }
    },
    "ignore": ["lm_head", "model.embed_tokens", r"re:.*\.coefficient$", r"re:.*\.block_sparse_moe\.gate$"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniMaxM1Config:
    """Shape of one model; the defaults are those of MiniMax-M1 (456B parameters, 45.9B active).

    Field names are the published keys of `config.json`. `attn_type_list` has one entry a layer:
    0 lightning attention, 1 softmax attention. Two keys are ours: `lightning_norm_eps`, the epsilon
    of the norm inside lightning attention, which the published code leaves at 1e-6; and `softmax_log_n`, the
    length in tokens beyond which softmax layers look more sharply (model/attention.py), 0 for never, as published.

    `quantization` is what the weights are held in: None is floating point, "int8" a byte each with one float32 scale
    a row. In `config.json` it stands as `quantization_config`, in the words of compressed-tensors.

    Raises:
        ConfigError: the values describe no model; the message names the value and the limit.
    """

    vocab_size: int = 200064
    hidden_size: int = 6144
    num_hidden_layers: int = 80
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 128
    attn_type_list: tuple[int, ...] = tuple(SOFTMAX if i % 8 == 7 else LIGHTNING for i in range(80))
    intermediate_size: int = 9216
    num_local_experts: int = 32
    num_experts_per_tok: int = 2
    shared_intermediate_size: int = 0
    shared_moe_mode: str = "sigmoid"
    hidden_act: str = "silu"
    rotary_dim: int = 64
    rope_theta: float = 10_000_000.0
    softmax_log_n: int = 0
    max_position_embeddings: int = 10_240_000
    rms_norm_eps: float = 1e-5
    lightning_norm_eps: float = 1e-6
    postnorm: bool = True
    layernorm_full_attention_alpha: float = 3.5565588200778455
    layernorm_full_attention_beta: float = 1.0
    layernorm_linear_attention_alpha: float = 3.5565588200778455
    layernorm_linear_attention_beta: float = 1.0
    layernorm_mlp_alpha: float = 3.5565588200778455
    layernorm_mlp_beta: float = 1.0
    router_aux_loss_coef: float = 0.001
    router_jitter_noise: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check(name, getattr(self, name), _is_count(getattr(self, name), least=1), "an integer of at least 1")
        for name in ("shared_intermediate_size", "rotary_dim"):
            _check(name, getattr(self, name), _is_count(getattr(self, name), least=0), "an integer of at least 0")
        length = self.softmax_log_n
        _check("softmax_log_n", length, _is_count(length, least=0) and length != 1, "0 or an integer of at least 2")
        for name in _NUMBERS:
            _check(name, getattr(self, name), _is_number(getattr(self, name)), "a finite number")
        for name in _POSITIVE:
            value = getattr(self, name)
            _check(name, value, _is_number(value) and value > 0, "a finite number above 0")
        for name in ("router_aux_loss_coef", "router_jitter_noise"):
            value = getattr(self, name)
            _check(name, value, _is_number(value) and value >= 0, "a finite number of at least 0")
        for name in ("postnorm", "tie_word_embeddings"):
            _check(name, getattr(self, name), isinstance(getattr(self, name), bool), "true or false")
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            _check(name, value, value is None or _is_count(value, least=0), "null or an integer of at least 0")
        _check("hidden_act", self.hidden_act, self.hidden_act == "silu", '"silu"')
        modes = ("sigmoid", "softmax")
        _check("shared_moe_mode", self.shared_moe_mode, self.shared_moe_mode in modes, '"sigmoid" or "softmax"')
        _check("quantization", self.quantization, self.quantization in (None, "int8"), 'null or "int8"')
        self._check_layers()
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds num_local_experts {self.num_local_experts}"
            )
        if self.rotary_dim > self.head_dim or self.rotary_dim % 2:
            raise ConfigError(f"rotary_dim must be even and at most head_dim {self.head_dim}, got {self.rotary_dim}")

    def _check_layers(self) -> None:
        if len(self.attn_type_list) != self.num_hidden_layers:
            raise ConfigError(
                f"attn_type_list has {len(self.attn_type_list)} entries for {self.num_hidden_layers} layers"
            )
        for layer, kind in enumerate(self.attn_type_list):
            good = type(kind) is int and kind in (LIGHTNING, SOFTMAX)
            _check(f"attn_type_list[{layer}]", kind, good, "0 (lightning) or 1 (softmax)")

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any]) -> Self:
        """Reads published keys or the `-hf` spelling; raises ConfigError, naming any unknown key."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in keys.items():
            name = _HF_NAMES.get(key, key)
            if name == "quantization_config":
                values["quantization"] = _quantization(value)
            elif name in known:
                values[name] = value
            elif key not in _IGNORED:
                raise ConfigError(f"unknown configuration key {key!r}")
        if isinstance(shared := values.get("shared_intermediate_size"), list):  # MiniMax-VL-01 writes [0]
            values["shared_intermediate_size"] = shared[0] if shared else 0
        for name in ("head_dim", "router_jitter_noise"):  # null in some configurations: the default holds
            if values.get(name, ...) is None:
                del values[name]
        _add_head_shape(values, keys)
        _add_layers(values, keys)
        return cls(**values)

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Reads `config.json`; raises ConfigError if it is missing or not JSON."""
        path = Path(path)
        try:
            keys = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration at {path}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not JSON: {error}") from None
        if not isinstance(keys, dict):
            raise ConfigError(f"{path} must hold a JSON object, got {type(keys).__name__}")
        return cls.from_dict(keys)

    def to_dict(self) -> dict[str, Any]:
        """The published keys, ready for `config.json`."""
        keys = asdict(self)
        keys["attn_type_list"] = list(self.attn_type_list)
        if not self.softmax_log_n:
            del keys["softmax_log_n"]  # so that published keys stay as they were
        if keys.pop("quantization") == "int8":
            keys["quantization_config"] = deepcopy(_INT8)
        return {"architectures": ["MiniMaxM1ForCausalLM"], "model_type": "minimax_m1", **keys}

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some fields changed."""
        return replace(self, **changes)

    @property
    def lightning_layers(self) -> tuple[int, ...]:
        """Indices of the lightning layers, in order."""
        return tuple(i for i, kind in enumerate(self.attn_type_list) if kind == LIGHTNING)

    @property
    def softmax_layers(self) -> tuple[int, ...]:
        """Indices of the softmax layers, in order."""
        return tuple(i for i, kind in enumerate(self.attn_type_list) if kind == SOFTMAX)


_COUNTS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "intermediate_size num_local_experts num_experts_per_tok max_position_embeddings"
).split()
_NUMBERS = tuple(
    f"layernorm_{part}_{factor}"
    for part in ("full_attention", "linear_attention", "mlp")
    for factor in ("alpha", "beta")
)
_POSITIVE = "rope_theta rms_norm_eps lightning_norm_eps initializer_range".split()
_MOST_LAYERS = 10_000  # a bound on what a hostile file can make us list


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check(name: str, value: Any, good: bool, limit: str) -> None:
    if not good:
        raise ConfigError(f"{name} must be {limit}, got {value!r}")


def _quantization(told: Any) -> str | None:
    """What a `quantization_config` asks for; which tensors it means shows in the files, and is checked there."""
    if told is None:
        return None
    _check("quantization_config", told, isinstance(told, Mapping), "an object")
    groups = told.get("config_groups")
    group = next(iter(groups.values())) if isinstance(groups, Mapping) and len(groups) == 1 else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if (
        isinstance(group, Mapping)
        and isinstance(weights, Mapping)
        and all(told.get(key) == _INT8[key] for key in ("quant_method", "format"))
        and all(weights.get(key, False) == value for key, value in _INT8_WEIGHTS.items())
        and group.get("input_activations") is None
        and group.get("output_activations") is None
        and told.get("kv_cache_scheme") is None
    ):
        return "int8"
    raise ConfigError(
        f"quantization_config asks for {told.get('quant_method')!r} in the format {told.get('format')!r}, which is not "
        'read here; int8 weights with one scale a row are (compressed-tensors\' "int-quantized", weights alone)'
    )


def _add_head_shape(values: dict[str, Any], keys: Mapping[str, Any]) -> None:
    """Head width, rotary width and base where they are spelled otherwise or follow from other keys."""
    hidden, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if "head_dim" not in values and _is_count(hidden, least=1) and _is_count(heads, least=1):
        values["head_dim"] = max(hidden // heads, 1)  # type: ignore[operator]
    rope = keys.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_parameters must be an object, got {rope!r}")
    if "rope_theta" in rope:
        values.setdefault("rope_theta", rope["rope_theta"])
    if "rotary_dim" not in values and _is_count(values.get("head_dim"), least=1):
        share = keys.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
        good = _is_number(share) and 0 <= share <= 1
        _check("partial_rotary_factor", share, good, "between 0 and 1")
        values["rotary_dim"] = int(values["head_dim"] * share)


def _add_layers(values: dict[str, Any], keys: Mapping[str, Any]) -> None:
    """The layer pattern as a tuple: as given, from transformers' layer names, or every eighth layer softmax."""
    layers, kinds = values.get("num_hidden_layers"), values.get("attn_type_list")
    if kinds is None and "layer_types" in keys:
        names = keys["layer_types"]
        _check("layer_types", names, isinstance(names, list | tuple), "a list")
        if unknown := [name for name in names if not isinstance(name, str) or name not in _HF_LAYER_TYPES]:
            raise ConfigError(f"layer_types holds {unknown[0]!r}; it may hold {' and '.join(sorted(_HF_LAYER_TYPES))}")
        kinds = [_HF_LAYER_TYPES[name] for name in names]
    if kinds is None and _is_count(layers, least=1):
        assert isinstance(layers, int)
        _check("num_hidden_layers", layers, layers <= _MOST_LAYERS, f"at most {_MOST_LAYERS} where no pattern is given")
        kinds = [SOFTMAX if i % 8 == 7 else LIGHTNING for i in range(layers)]
    if kinds is not None:
        _check("attn_type_list", kinds, isinstance(kinds, list | tuple), "a list")
        values["attn_type_list"] = tuple(kinds)
