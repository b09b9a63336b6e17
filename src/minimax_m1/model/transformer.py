"""The model: embedding, layers, a final norm, a float32 head.

In: a packed `Batch` and the `State` before it (`run`), or `[B, T]` ids with padding on either side (`forward`).
Out: logits, the state after it, and who was routed where. Pure torch; `Ops` says which kernels run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_again

from minimax_m1.config import LIGHTNING, MiniMaxM1Config
from minimax_m1.errors import RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.segments import Segments
from minimax_m1.model import checkpoint, generation
from minimax_m1.model.attention import Places
from minimax_m1.model.batch import Batch, follow
from minimax_m1.model.block import DecoderLayer
from minimax_m1.model.init import init_weights
from minimax_m1.model.layers import Embedding, Linear, RMSNorm
from minimax_m1.model.layers import head as logits_of
from minimax_m1.model.moe import Routing
from minimax_m1.model.quantization import quantize
from minimax_m1.model.state import GrownKeyValues, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a packed run gives: float32 logits of the rows asked for (None if none), state, routing [L, T, ...].

    Where the head was not to run, `hidden` [R, M] stands in for the logits: the final norm's output of the same rows.
    """

    logits: Tensor | None
    hidden: Tensor | None = None
    state: State
    routing: Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What `forward` gives: logits [B, T, V] in float32, zero at padding; state; router_logits [L, B, T, E]."""

    logits: Tensor
    state: State
    router_logits: Tensor


class Decoder(nn.Module):
    """Embedding, layers and the final norm, under the published names."""

    def __init__(self, config: MiniMaxM1Config) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MiniMaxM1ForCausalLM(nn.Module):
    """A model of the family, trainable, on packed batches inside and padded batches outside.

    `state_dict()` uses the published tensor names. Built under `torch.device("meta")` it takes no memory.
    """

    def __init__(self, config: MiniMaxM1Config, *, ops: Ops | None = None, init: bool = True) -> None:
        """Random weights (model/init.py) unless `init` is False; kernels `Ops.torch()` unless told otherwise,
        also where it is moved to a GPU.

        With `config.quantization` the weights are rounded once they are drawn; such a model answers and never trains.
        """
        super().__init__()
        self.config, self.ops = config, ops or Ops.torch()
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        checkpoint.use_published_names(self)
        if init and self.device.type != "meta":
            init_weights(self)
        if config.quantization is not None:
            quantize(self)
            self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights (router and norms' statistics are float32 all the same), int8 ones left aside."""
        return self.lm_head.weight.dtype

    def train(self, mode: bool = True) -> Self:
        """Torch's; raises RequestError where the weights are int8, which cannot be trained."""
        if mode and self.config.quantization is not None:
            raise self._untrainable()
        return super().train(mode)

    def _asks_gradients(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _untrainable(self) -> RequestError:
        return RequestError(
            f"a model with {self.config.quantization} weights cannot be trained and gives no gradients; "
            "load the checkpoint in floating point, without quantization",
            param="quantization",
        )

    def empty_state(self, sequences: int = 1) -> State:
        """The state of sequences that have seen nothing."""
        c = self.config
        accurate = torch.promote_types(self.dtype, torch.float32)
        shape = (sequences, c.num_attention_heads, c.head_dim, c.head_dim)
        return State(
            lengths=(0,) * sequences,
            lightning=tuple(torch.zeros(shape, device=self.device, dtype=accurate) for _ in c.lightning_layers),
            softmax=tuple(
                GrownKeyValues.empty(sequences, c.num_key_value_heads, c.head_dim, self.device, self.dtype)
                for _ in c.softmax_layers
            ),
        )

    def run(
        self,
        batch: Batch,
        state: State,
        *,
        expert_threshold: Tensor | float = 1.0,
        logits: Literal["last", "all", "none"] | Sequence[int] = "last",
        route_all: bool = False,
        head: bool = True,
        recompute: bool = False,
    ) -> Run:
        """Runs packed tokens from a state.

        `expert_threshold` is one number or one per token [T] (kernels/moe/route.py). `logits`: "last" gives [N, V],
        each sequence's last token (every sequence must then bring one); "all" gives [T, V]; "none" gives None; numbers
        [N] give the last so many tokens of each sequence, packed.
        Nothing reads the last layer's output but the logits, so that layer takes every token into its state and
        works out only the rows that are asked for; the others show no expert there. `route_all` runs them as well.

        For training: `head` False gives `hidden` instead of logits, which `ops.head` scores without R x V numbers.
        `recompute` keeps only what goes into each layer and runs the layer again in the backward, random numbers and
        all: the same gradients for a third more time and a fraction of the memory.
        Raises RequestError where int8 weights are asked for gradients.
        """
        if self.config.quantization is not None and torch.is_grad_enabled() and self._asks_gradients():
            raise self._untrainable()
        assert len(batch.segments) == len(state) and batch.segments.total == len(batch.ids)
        x = self.model.embed_tokens(batch.ids)
        accurate = torch.promote_types(self.dtype, torch.float32)
        places = Places.of(batch, state.lengths, self.config, accurate)
        new = batch.segments.lengths
        named: dict[Any, Sequence[int]] = {"last": [1] * len(new), "all": new, "none": [0] * len(new)}
        counts = named[logits] if isinstance(logits, str) else logits
        tail = None if list(counts) == new else batch.tail(counts)
        lightning, softmax = iter(state.lightning), iter(state.softmax)
        after: tuple[list[Any], list[Any]] = ([], [])  # lightning parts, softmax parts
        routing: list[Routing] = []
        for kind, layer in zip(self.config.attn_type_list, self.model.layers, strict=True):
            memory = next(lightning) if kind == LIGHTNING else next(softmax)
            short = tail if len(routing) == self.config.num_hidden_layers - 1 and not route_all else None
            inputs = (x, batch, places, memory, expert_threshold, self.ops, short)
            x, memory, routed = run_again(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
            after[kind].append(memory)
            routing.append(routed if short is None else routed.spread(short.rows, len(batch.ids)))
        if tail is not None and route_all:
            x = x[tail.rows]
        silent = tail is not None and len(tail.rows) == 0
        hidden = None if silent else self.model.norm(x, self.ops)
        ends = tuple(old + more for old, more in zip(state.lengths, new, strict=True))
        return Run(
            logits=logits_of(hidden, self.lm_head.weight, self.ops) if head and hidden is not None else None,
            hidden=None if head else hidden,
            state=State(lengths=ends, lightning=tuple(after[0]), softmax=tuple(after[1])),
            routing=Routing.stack(routing),
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: State | None = None,
        *,
        expert_threshold: float = 1.0,
    ) -> Output:
        """Runs a padded batch; each row equals the same row alone.

        input_ids [B, T]; attention_mask [B, T] over these tokens, 1 = real, padding left or right; `state` continues
        B rows from it with any number of new tokens each. Raises RequestError on ids or shapes that do not fit.
        """
        self._check(input_ids, attention_mask)
        rows, length = input_ids.shape
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if state is None:
            state = self.empty_state(rows)
        elif len(state) != rows:
            raise RequestError(f"input_ids has {rows} rows but the state holds {len(state)}", param="state")
        segments = Segments.of(real.sum(1).tolist())
        batch = Batch(
            ids=input_ids[real], segments=segments, positions=follow(state.lengths, segments, input_ids.device)
        )
        run = self.run(batch, state, expert_threshold=expert_threshold, logits="all")
        assert run.logits is not None
        logits = run.logits.new_zeros(rows, length, run.logits.shape[-1])
        logits[real] = run.logits
        layers, _, experts = run.routing.logits.shape
        router = run.logits.new_zeros(layers, rows, length, experts)
        router[:, real] = run.routing.logits
        return Output(logits=logits, state=run.state, router_logits=router)

    def _check(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise RequestError(
                f"input_ids must be an integer tensor [B, T], got {input_ids.dtype} {list(input_ids.shape)}",
                param="input_ids",
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise RequestError(
                f"attention_mask has shape {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}",
                param="attention_mask",
            )
        if input_ids.numel():
            low, high = (int(x) for x in input_ids.aminmax())
            if low < 0 or high >= self.config.vocab_size:
                raise RequestError(
                    f"token id {low if low < 0 else high} is outside the vocabulary of {self.config.vocab_size}",
                    param="input_ids",
                )

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Prompt and new ids [B, T + new]; see `generation.generate` for the options (transformers' names)."""
        return generation.generate(self, input_ids, attention_mask, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str = "cpu",
        quantization: str | None = None,
        ops: Ops | None = None,
        progress: bool = True,
    ) -> Self:
        """Loads "nano", a folder or a hub id, shard by shard; `dtype` "auto" keeps the checkpoint's.

        `quantization` "int8" rounds linear maps and experts as they come in, to a byte a weight and a scale a row;
        None leaves the weights as the checkpoint has them, and a checkpoint saved in int8 stays so. `ops` None is
        `Ops.default` for the device; a model that is moved afterwards keeps the ops that it has.

        Raises ModelNotFound, ConfigError, or CheckpointError naming the tensor or file that does not fit.
        """
        return checkpoint.load(
            cls,
            name,
            dtype=dtype,
            device=torch.device(device),
            quantization=quantization,
            ops=ops,
            progress=progress,
        )

    def save_pretrained(self, folder: str | Path, *, max_shard_bytes: int = 5_000_000_000) -> None:
        """Writes config.json and safetensors in the published layout, sharded with an index if need be.

        int8 weights are written as they are, with their scales beside them (compressed-tensors' "int-quantized").
        """
        checkpoint.save(self, Path(folder), max_shard_bytes)
