"""LoRA: a small trained product beside frozen linear maps, and its files in PEFT's format.

In: a floating-point model; rank, alpha and the published names of the maps to adapt. Out: the same model, whose only
trained parameters are the adapters; merged, a plain model again. y = W x + (alpha / rank) B A x (arXiv 2106.09685).
Files are adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minimax_m1.errors import CheckpointError, DataError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.layers import Linear
from minimax_m1.model.precision import KeepsFloat32
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

MIXERS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "output_gate")  # of both kinds of attention
_CONFIG, _WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# What PEFT can say and we do not do, and the values by which it says that it does not either.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
}


class Factor(KeepsFloat32):
    """One of an adapter's two maps: weight [out, in], float32 beside a bfloat16 base."""

    def __init__(self, outputs: int, inputs: int, like: Tensor) -> None:
        super().__init__()
        kind = torch.promote_types(like.dtype, torch.float32)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=kind, device=like.device))

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        return ops.linear(x.to(self.weight.dtype), self.weight)


class AdaptedLinear(Linear):
    """x [..., in] -> W x + (alpha / rank) B A x [..., out]; A starts as Kaiming's uniform, B as zero, as in PEFT."""

    def __init__(self, base: Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        outputs, inputs = base.weight.shape
        self.weight, self.rank, self.alpha = base.weight, rank, alpha
        self.lora_A, self.lora_B = Factor(rank, inputs, base.weight), Factor(outputs, rank, base.weight)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor, ops: Ops) -> Tensor:
        out = super().forward(x, ops)
        return torch.add(out, self.lora_B(self.lora_A(x, ops), ops), alpha=self.alpha / self.rank).to(out.dtype)

    @torch.no_grad()
    def merged(self) -> Linear:
        """The plain map with the product added to its weight, rounded once."""
        plain = Linear(0, 0)
        change = self.lora_B.weight @ self.lora_A.weight
        plain.weight = nn.Parameter(torch.add(self.weight, change, alpha=self.alpha / self.rank).to(self.weight.dtype))
        return plain


def add_lora(model: MiniMaxM1ForCausalLM, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = MIXERS) -> None:
    """Freezes the model and adapts every map of the layers whose last name is among `targets`, in place.

    Of `MIXERS` a model has those that its kinds of attention use. The first outputs are the base's, since B is zero.
    A is drawn from torch's global generator. Raises DataError: a rank or alpha that is not above 0, an int8 base, a
    model that is adapted already, or a target that names no linear map of the layers.
    """
    if rank < 1 or not 0 < alpha < math.inf:
        raise DataError(f"LoRA needs a rank of at least 1 and an alpha above 0, got {rank} and {alpha}")
    _check_base(model)
    maps = dict(_maps(model))
    there = {name.rpartition(".")[2] for name in maps}
    if unknown := [name for name in targets if name not in there.union(MIXERS)]:
        raise DataError(
            f"LoRA cannot adapt {unknown[0]!r}; of this model it can adapt {', '.join(sorted(there))} "
            "(experts, routers, embedding and head stay as they are)"
        )
    chosen = [name for name in maps if name.rpartition(".")[2] in targets]
    if not chosen:
        raise DataError(f"LoRA has nothing to adapt: none of {', '.join(targets) or 'no targets'} is in this model")
    _attach(model, chosen, rank, alpha)


def adapters(model: MiniMaxM1ForCausalLM) -> dict[str, nn.Parameter]:
    """All that is trained of an adapted model, under names that end in `lora_A.weight` and `lora_B.weight`."""
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}


def merge(model: MiniMaxM1ForCausalLM) -> None:
    """Adds every adapter to its weight, in place: a plain model that answers the same, with the published names."""
    for name, module in _adapted(model):
        model.set_submodule(name, module.merged())
    model.requires_grad_(True)


def merged_weights(model: MiniMaxM1ForCausalLM) -> dict[str, Tensor]:
    """The weights under the published names, adapters added to theirs; the model stays as it is."""
    merged = {f"{name}.weight": module.merged().weight.detach() for name, module in _adapted(model)}
    plain = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    return {**plain, **merged}


def save_lora(model: MiniMaxM1ForCausalLM, folder: Path, base: str) -> None:
    """Writes the adapters of a model whose base is called `base` (a name or a folder), and nothing of the base."""
    adapted = _adapted(model)
    assert adapted, "there are no adapters to save"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + name: p.detach().cpu().contiguous() for name, p in adapters(model).items()}
    save_file(tensors, folder / f"{_WEIGHTS}.tmp", metadata={"format": "pt"})
    (folder / f"{_WEIGHTS}.tmp").rename(folder / _WEIGHTS)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapted[0][1].rank,
        "lora_alpha": adapted[0][1].alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name, _ in adapted}),
        "inference_mode": True,
        "init_lora_weights": True,
        **{key: values[0] for key, values in _PLAIN.items()},
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def load_lora(model: MiniMaxM1ForCausalLM, folder: Path) -> None:
    """Adapts a model as the files in `folder` say, ours or PEFT's: the maps they name, with their values.

    Raises CheckpointError: files that are missing or cut, or do not fit the model; DataError as `add_lora`.
    """
    config, tensors = _read(folder)
    _check_base(model)
    maps = dict(_maps(model))
    named: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        name, _, factor = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if name not in maps or factor not in ("lora_A", "lora_B"):
            raise CheckpointError(f"{folder / _WEIGHTS} holds {key}, which adapts no linear map of the model")
        named.setdefault(name, {})[factor] = tensor
    rank, alpha = config["r"], config["lora_alpha"]
    for name, factors in named.items():
        outputs, inputs = maps[name].weight.shape
        for factor, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
            found = list(factors[factor].shape) if factor in factors else "nothing"
            if found != list(shape):
                raise CheckpointError(
                    f"{folder / _WEIGHTS} has {found} for {name}.{factor}, the model and a rank of {rank} "
                    f"need {list(shape)}"
                )
    _attach(model, list(named), rank, alpha)
    for name, module in _adapted(model):
        module.lora_A.weight.data.copy_(named[name]["lora_A"])
        module.lora_B.weight.data.copy_(named[name]["lora_B"])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a folder, checked as far as that goes without a model."""
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} holds no adapter: it lacks {name}")
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        tensors = load_file(folder / _WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is not JSON: {error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder / _WEIGHTS} is cut or damaged: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / _CONFIG} describes no LoRA adapter")
    for key, values in _PLAIN.items():
        if config.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{folder / _CONFIG} has {key} {config[key]!r}, and here it can only be {values[0]!r}"
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    good = isinstance(rank, int) and rank >= 1 and isinstance(alpha, int | float) and 0 < alpha < math.inf
    if not good or not tensors:
        raise CheckpointError(f"{folder} holds no usable adapter: r {rank}, lora_alpha {alpha}, {len(tensors)} tensors")
    return config, tensors


def _check_base(model: MiniMaxM1ForCausalLM) -> None:
    if model.config.quantization is not None:
        raise DataError(
            f"LoRA needs a base in floating point, and this model's weights are {model.config.quantization}: "
            "load it without quantization"
        )
    if _adapted(model):
        raise DataError("the model has LoRA adapters already; merge them before others are added")


def _maps(model: MiniMaxM1ForCausalLM) -> Iterator[tuple[str, Linear]]:
    """Linear maps of the layers by their full names. The shared expert's coefficient is read as a bare weight."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name.startswith("model.layers.") and not name.endswith(".coefficient"):
            yield name, module


def _adapted(model: MiniMaxM1ForCausalLM) -> list[tuple[str, AdaptedLinear]]:
    return [(name, module) for name, module in _maps(model) if isinstance(module, AdaptedLinear)]


def _attach(model: MiniMaxM1ForCausalLM, names: Sequence[str], rank: int, alpha: float) -> None:
    model.requires_grad_(False)
    maps = dict(_maps(model))
    for name in names:
        model.set_submodule(name, AdaptedLinear(maps[name], rank, alpha))
