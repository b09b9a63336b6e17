"""Packing: nothing lost, nothing padded, and no document sees another."""

from __future__ import annotations

import torch

from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.data import Document
from minimax_m1.train.pack import TrainingBatch, pack


def document(length: int, seed: int) -> Document:
    generator = torch.Generator().manual_seed(seed)
    return Document(
        ids=torch.randint(0, 64, (length,), generator=generator).tolist(),
        said=torch.randint(0, 2, (length,), generator=generator).tolist(),
        positions=[3 * at for at in range(length)],
    )


def losses(model: MiniMaxM1ForCausalLM, data: TrainingBatch) -> torch.Tensor:
    run = model.run(data.batch, model.empty_state(len(data.batch.segments)), logits="all")
    assert run.logits is not None
    return torch.nn.functional.cross_entropy(run.logits, data.targets, reduction="none") * data.weights


def test_targets_and_weights() -> None:
    documents = [
        Document(ids=[5, 6, 7], said=[0, 0, 1], positions=[0, 1, 2]),
        Document(ids=[8], said=[1], positions=[0]),
    ]
    data = pack(documents, 0.25)
    assert data.batch.ids.tolist() == [5, 6, 7, 8]
    assert data.targets.tolist()[:2] == [6, 7]
    assert data.weights.tolist() == [0.25, 1.0, 0.0, 0.0]  # a last token has nothing to predict
    assert data.batch.segments.cu_seqlens == (0, 3, 4)


def test_a_packed_document_has_its_own_loss_and_gradients() -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny()).double()
    documents = [document(length, seed) for seed, length in enumerate((70, 3, 41))]
    packed = losses(model, pack(documents, 0.1))
    packed.sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone = [losses(model, pack([d], 0.1)) for d in documents]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-9, atol=1e-9)
    torch.cat(alone).sum().backward()
    for mine, theirs in zip(together, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
