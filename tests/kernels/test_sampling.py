"""The draw: filters keep what they say, frequencies follow the probabilities."""

from __future__ import annotations

import torch

from minimax_m1.kernels.sampling.reference import draw
from minimax_m1.kernels.sampling.torch import draw as draw_rows

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def seen(**options: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    ids = [draw(LOGITS, generator, **{**OFF, **options}) for _ in range(2000)]  # type: ignore[arg-type]
    return torch.bincount(torch.tensor(ids), minlength=4) / 2000


def test_frequencies_follow_the_probabilities() -> None:
    torch.testing.assert_close(seen().double(), LOGITS.exp(), atol=0.03, rtol=0)


def test_filters() -> None:
    assert (seen(top_k=2) > 0).tolist() == [True, True, False, False]
    assert (seen(top_p=0.75) > 0).tolist() == [True, True, False, False]
    assert (seen(top_p=0.01) > 0).tolist() == [True, False, False, False]
    assert (seen(min_p=0.2) > 0).tolist() == [True, True, True, False]


def test_a_low_temperature_sharpens() -> None:
    assert seen(temperature=0.1)[0] > 0.98


def test_a_point_at_the_very_end_is_the_last_id_that_may_come() -> None:
    scores = torch.tensor([[1.0, 2.0, float("-inf")], [float("-inf"), 0.0, 0.0]])
    ids = draw_rows(scores, torch.ones(2, dtype=torch.float64), temperature=torch.ones(2))
    assert ids.tolist() == [1, 2]
