"""Checkpoints in the published layout: safetensors, one file or shards with an index, beside a config.json.

In and out: a folder. Tensors go one at a time between a shard and their place in the model (the stacked experts are
read and written through views) and are rounded on the way where the model is to hold int8, so loading needs little
more memory than the model. Names and shapes that do not fit are refused by name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8
from minimax_m1.location import locate
from minimax_m1.model.lightning import LightningAttention, Slopes
from minimax_m1.model.names import is_scale, published_tensors, scale_of

if TYPE_CHECKING:
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

    Model = TypeVar("Model", bound=MiniMaxM1ForCausalLM)

_READ_AT_ONCE = 2**27  # bytes
_INDEX, _SINGLE, _CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Buffers that transformers' port writes out; they follow from the config and are computed anew.
_DERIVED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay", "rotary_emb.inv_freq")


def published_views(model: MiniMaxM1ForCausalLM) -> dict[str, Tensor]:
    """Every published name with its place in the model: a parameter, or a view into the stacked experts.

    Scales are views [out, 1] of the [out] that the model holds.
    """
    own = {name: parameter.data for name, parameter in model.named_parameters(remove_duplicate=False)}
    own |= dict(model.named_buffers())
    inner = model.config.intermediate_size
    views = {}
    for name in published_tensors(model.config):
        if ".experts." not in name:
            view = own[name]
        else:
            stack, expert, part, kind = name.rsplit(".", 3)
            held = own[f"{stack}.{'w2' if part == 'w2' else 'w13'}{kind.removeprefix('weight')}"][int(expert)]
            view = held if part == "w2" else held[:inner] if part == "w1" else held[inner:]
        views[name] = view[:, None] if is_scale(name) else view
    return views


def use_published_names(model: MiniMaxM1ForCausalLM) -> None:
    """Makes `state_dict` and `load_state_dict` speak the published names, in copies of the model too."""
    model.register_state_dict_post_hook(_publish)
    model.register_load_state_dict_pre_hook(_take_in)


def _publish(model: MiniMaxM1ForCausalLM, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in [n for n in state if ".experts.w" in n]:
        del state[name]
    if model.config.tie_word_embeddings:
        state.pop(f"{prefix}lm_head.weight", None)
    state.update((prefix + name, view) for name, view in published_views(model).items())


def _take_in(model: MiniMaxM1ForCausalLM, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [n for n in state if is_scale(n)]:
        state[name] = state[name].flatten()
    for layer, kind in itertools.product(range(model.config.num_hidden_layers), ("", scale_of(""))):
        base = f"{prefix}model.layers.{layer}.block_sparse_moe.experts"
        names = [[f"{base}.{e}.w{i}.weight{kind}" for i in (1, 2, 3)] for e in range(model.config.num_local_experts)]
        if all(name in state for expert in names for name in expert):
            parts = [[state.pop(name) for name in expert] for expert in names]
            state[f"{base}.w13{kind}"] = torch.stack([torch.cat((w1, w3)) for w1, _, w3 in parts])
            state[f"{base}.w2{kind}"] = torch.stack([w2 for _, w2, _ in parts])
    if model.config.tie_word_embeddings and f"{prefix}model.embed_tokens.weight" in state:
        state[f"{prefix}lm_head.weight"] = state[f"{prefix}model.embed_tokens.weight"]


def load(
    kind: type[Model],
    name: str | Path,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    quantization: str | None,
    ops: Ops | None,
    progress: bool,
) -> Model:
    """Builds the model of a folder or name and streams its tensors in; see `from_pretrained`."""
    folder = locate(name)
    config = MiniMaxM1Config.from_file(folder / _CONFIG)
    shards = shard_files(folder)
    shapes = {n: s for shard in shards for n, s in header(shard).items()}
    config = with_shared_width(config, shapes)
    check_names({n: shape for n, (shape, _) in shapes.items()}, config, folder)
    _check_integers({n: kind for n, (_, kind) in shapes.items()}, config, folder)
    wanted = _dtype(dtype, shapes)
    if quantization is not None:
        config = config.replace(quantization=quantization)
    with torch.device("meta"):
        model = kind(config, ops=ops or Ops.default(device), init=False).to(wanted)
    model = _materialise(model, device)
    views = published_views(model)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(f"loading {folder.name}", total=len(shapes))
        for shard in shards:
            try:
                for key, tensor in _stored(shard):
                    if key in views:
                        _put(views, key, tensor)
                        bar.advance(task)
            except SafetensorError as error:
                raise CheckpointError(f"{shard} is cut or damaged: {error}") from None
    return model.eval()


def _stored(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """A file's tensors in turn; it is opened anew now and then, for what was read of an open file counts as memory."""
    with safe_open(shard, "pt") as tensors:
        names = [*tensors.keys()][::-1]
    while names:
        read = 0
        with safe_open(shard, "pt") as tensors:
            while names and read < _READ_AT_ONCE:
                name = names.pop()
                tensor = tensors.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor


def _put(views: Mapping[str, Tensor], name: str, tensor: Tensor) -> None:
    """A tensor into its place, rounded where that holds int8 and the tensor does not."""
    place = views[name]
    if place.dtype == torch.int8 and tensor.is_floating_point():
        rounded = Int8.of(tensor.to(place.device))
        place.copy_(rounded.values)
        views[scale_of(name)].copy_(rounded.scales[:, None])
    else:
        place.copy_(tensor)


def _materialise(model: Model, device: torch.device) -> Model:
    """Empty storage for the parameters, and the decay slopes computed anew, which no checkpoint holds."""
    model = model.to_empty(device=device)
    for index, layer in enumerate(model.model.layers):
        if isinstance(layer.self_attn, LightningAttention):
            fresh = Slopes(layer.self_attn.heads, index, model.config.num_hidden_layers)
            layer.self_attn.slopes = fresh.to(device)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in order; raises CheckpointError where one is missing."""
    if (index := folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is not a safetensors index: {error!r}") from None
        for shard in names:
            if not (folder / str(shard)).is_file():
                raise CheckpointError(f"{folder} lacks the shard {shard} that its index names")
        return [folder / shard for shard in names]
    if (single := folder / _SINGLE).is_file():
        return [single]
    raise CheckpointError(f"{folder} holds neither {_SINGLE} nor {_INDEX}")


def header(shard: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and dtypes of one file, without its data."""
    try:
        with safe_open(shard, "pt") as tensors:
            slices = {n: tensors.get_slice(n) for n in tensors.keys()}  # noqa: SIM118
            return {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{shard} is cut or damaged: {error}") from None


def header_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a folder's checkpoint, read from the headers only."""
    return {name: shape for shard in shard_files(folder) for name, (shape, _) in header(shard).items()}


def with_shared_width(config: MiniMaxM1Config, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> MiniMaxM1Config:
    """The published code builds the shared expert `intermediate_size` wide, vLLM `shared_intermediate_size`."""
    gate = shapes.get("model.layers.0.shared_mlp.gate_proj.weight")
    if config.shared_intermediate_size and gate and gate[0][0] == config.intermediate_size:
        return config.replace(shared_intermediate_size=config.intermediate_size)
    return config


def check_names(found: Mapping[str, tuple[int, ...]], config: MiniMaxM1Config, where: Path) -> None:
    """Raises CheckpointError naming tensors that are missing, unknown or of another shape."""
    expected = published_tensors(config)
    extra = {n for n in found.keys() - expected.keys() if not n.endswith(_DERIVED)}
    if config.tie_word_embeddings:
        extra.discard("lm_head.weight")
    if missing := expected.keys() - found.keys():
        raise CheckpointError(f"{where} lacks {_some(missing)}")
    if extra:
        raise CheckpointError(f"{where} holds {_some(extra)}, which the configuration does not know")
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise CheckpointError(
                f"{name} in {where} has shape {list(found[name])}, the configuration says {list(shape)}"
            )


def _check_integers(found: Mapping[str, str], config: MiniMaxM1Config, where: Path) -> None:
    """Raises CheckpointError where a tensor is int8 and should not be, or should be and is not."""
    expected = published_tensors(config)
    for name in expected:
        if (found[name] == "I8") != (scale_of(name) in expected):
            wanted = "I8" if scale_of(name) in expected else "of a floating-point dtype"
            raise CheckpointError(f"{name} in {where} is {found[name]}; by the config.json there it should be {wanted}")


def _some(names: set[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more tensors"


def _dtype(dtype: torch.dtype | str, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        stored = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
        found = shapes["model.embed_tokens.weight"][1]
        if found not in stored:
            raise CheckpointError(f"weights of dtype {found} need a dtype= to be loaded as")
        dtype = stored[found]
    if dtype not in _DTYPES:
        raise CheckpointError(f"dtype must be one of auto, {', '.join(_DTYPES)}, got {dtype!r}")
    return _DTYPES[dtype]


def save(model: MiniMaxM1ForCausalLM, folder: Path, max_shard_bytes: int) -> None:
    """Writes config.json and the tensors; a folder is complete only once its config is there."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_split(published_views(model), max_shard_bytes))
    for old in (folder / _CONFIG, folder / _INDEX):
        old.unlink(missing_ok=True)
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name = _SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in shard.items()}
        save_file(contiguous, folder / f"{name}.tmp", metadata={"format": "pt"})
        (folder / f"{name}.tmp").rename(folder / name)
        weight_map.update(dict.fromkeys(shard, name))
        total += sum(tensor.nbytes for tensor in contiguous.values())
    if len(shards) > 1:
        _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    dtype = str(model.dtype).removeprefix("torch.")
    _write_json(folder / _CONFIG, {**model.config.to_dict(), "torch_dtype": dtype})


def _split(views: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in views.items():
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
