"""What a forward pass keeps is counted: no weights, but casts of them; less with recomputing."""

from __future__ import annotations

import torch
from torch import nn

from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.activations import Activations
from minimax_m1.train.document import Document
from minimax_m1.train.pack import pack
from minimax_m1.train.step import losses


def test_activations_are_counted_and_recomputing_keeps_fewer() -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny())
    texts = [
        Document(ids=[n % 64 for n in range(length)], said=[1] * length, positions=list(range(length)), place="test")
        for length in (400, 300)
    ]
    sizes = []
    for recompute in (False, True):
        with Activations(model) as kept:
            found = losses(model, pack(texts, 0.0), precision="float32", recompute=recompute)
            forward = kept.bytes
            found.loss.backward()
        assert kept.bytes == forward
        sizes.append(forward)
    rows, width = 700, 32
    assert sizes[0] > 4 * 10 * rows * width * 4  # at least ten tensors of a layer, four layers
    assert sizes[1] < sizes[0] / 2


def test_weights_count_only_where_they_are_cast() -> None:
    layer, x = nn.Linear(64, 32, bias=False), torch.ones(1, 64, requires_grad=True)
    sizes = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low), Activations(layer) as kept:
            layer(x).sum()
        sizes.append(kept.bytes)
    assert sizes == [64 * 4, 64 * 2 + 64 * 32 * 2]
