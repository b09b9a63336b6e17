"""Packing: nothing lost, nothing padded, no document sees another, and only rows that the loss reads are kept."""

from __future__ import annotations

import pytest
import torch

from minimax_m1.config import LIGHTNING, SOFTMAX
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.train.document import Document
from minimax_m1.train.pack import TrainingBatch, pack

PATTERNS = {
    "mixed, softmax last": (LIGHTNING, LIGHTNING, LIGHTNING, SOFTMAX),
    "mixed, lightning last": (SOFTMAX, LIGHTNING, SOFTMAX, LIGHTNING),
    "lightning only": (LIGHTNING,) * 4,
    "softmax only": (SOFTMAX,) * 4,
}


def document(length: int, seed: int, answer: int | None = None) -> Document:
    """Random ids; the last `answer` tokens are said, or else half of all."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 64, (length,), generator=generator).tolist()
    said = torch.randint(0, 2, (length,), generator=generator).tolist()
    if answer is not None:
        said = [0] * (length - answer) + [1] * answer
    return Document(ids=ids, said=said, positions=[3 * at for at in range(length)], place=f"test/{seed}")


def losses(model: MiniMaxM1ForCausalLM, data: TrainingBatch) -> torch.Tensor:
    run = model.run(data.batch, model.empty_state(len(data.tail)), logits=data.tail)
    assert run.logits is not None
    return torch.nn.functional.cross_entropy(run.logits, data.targets, reduction="none") * data.weights


def by_hand(model: MiniMaxM1ForCausalLM, one: Document, prompt_weight: float) -> torch.Tensor:
    """The weighted loss of one document, from the logits of all its rows."""
    logits = model.run(pack([one], 1.0).batch, model.empty_state(), logits="all").logits
    assert logits is not None
    weights = torch.tensor([1.0 if said else prompt_weight for said in one.said[1:]], dtype=torch.float64)
    next_ids = torch.tensor(one.ids[1:], dtype=torch.long)
    return (torch.nn.functional.cross_entropy(logits[:-1], next_ids, reduction="none") * weights).sum()


def test_targets_and_weights() -> None:
    documents = [
        Document(ids=[5, 6, 7], said=[0, 0, 1], positions=[0, 4, 5], place="a"),
        Document(ids=[8], said=[1], positions=[0], place="b"),
    ]
    data = pack(documents, 0.25)
    assert data.batch.ids.tolist() == [5, 6, 7, 8] and data.batch.positions.tolist() == [0, 4, 5, 0]
    assert data.batch.segments.cu_seqlens == (0, 3, 4)
    assert data.tail == [3, 1]
    assert data.targets.tolist()[:2] == [6, 7]
    assert data.weights.tolist() == [0.25, 1.0, 0.0, 0.0]  # a last token has nothing to predict
    assert data.learned.tolist() == [False, True, False, False]
    assert pack(documents, 1.0).learned.tolist() == data.learned.tolist()


def test_of_an_answer_at_the_end_only_its_rows_are_kept() -> None:
    documents = [
        Document(ids=[1, 2, 3, 4, 5], said=[0, 0, 0, 1, 1], positions=[0, 1, 2, 3, 4], place="answer at the end"),
        Document(ids=[6, 7, 8], said=[0, 1, 0], positions=[0, 1, 2], place="answer in the middle"),
        Document(ids=[9, 9, 9], said=[1, 0, 0], positions=[0, 1, 2], place="nothing to learn"),
    ]
    data = pack(documents, 0.0)
    assert data.tail == [3, 3, 1]
    assert data.targets.tolist()[:2] == [4, 5] and data.targets.tolist()[3:5] == [7, 8]
    assert data.weights.tolist() == [1, 1, 0, 1, 0, 0, 0]
    assert pack(documents, 0.1).tail == [5, 3, 3]


@pytest.mark.parametrize("prompt_weight", [0.0, 0.25])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_packed_document_has_its_own_loss_and_gradients(pattern: str, prompt_weight: float) -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny().replace(attn_type_list=PATTERNS[pattern])).double()
    documents = [document(70, 0, answer=9), document(3, 1), document(41, 2), document(1, 3), document(80, 4, answer=1)]
    data = pack(documents, prompt_weight)
    assert (sum(data.tail) < 100) == (prompt_weight == 0)
    packed = losses(model, data)
    packed.sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone = torch.stack([by_hand(model, one, prompt_weight) for one in documents])
    sums = torch.stack([part.sum() for part in packed.split(data.tail)])
    torch.testing.assert_close(sums, alone, rtol=1e-9, atol=1e-9)
    alone.sum().backward()
    for mine, theirs in zip(together, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
