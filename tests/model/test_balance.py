"""The balance loss counts the rows that ran, and those alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from minimax_m1.kernels.moe.route import route
from minimax_m1.model.moe import Routing, balance_loss


def test_rows_that_went_to_no_expert_do_not_weigh_in_the_balance() -> None:
    logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    experts, weights = route(logits, 2)
    rows = torch.tensor([3, 7, 8, 19])
    ran = Routing(experts=experts[rows], weights=weights[rows], logits=logits[rows])
    alone, among = balance_loss(ran), balance_loss(ran.spread(rows, 20))
    torch.testing.assert_close(among, alone)
    (mine,), (theirs,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (among, alone))
    torch.testing.assert_close(mine, theirs)
    both = Routing.stack([replace(ran.spread(rows, 20)), Routing(experts=experts, weights=weights, logits=logits)])
    assert not torch.isclose(balance_loss(both), alone)
