"""The linear map: the compiled form against the plain one, what it leaves to torch, and callers at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from minimax_m1.kernels.linear import reference
from minimax_m1.kernels.linear import torch as fused
from minimax_m1.kernels.ops import Ops

CLOSE = {"rtol": 1e-5, "atol": 5e-5}  # sums of up to 768 products, in any order


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 40])
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (3, 17), (17, 3), (250, 250), (256, 768)])
def test_every_form_equals_the_plain_one(rows: int, width: int, outputs: int) -> None:
    x, weight = torch.randn(rows, width), torch.randn(outputs, width)
    expected = reference.linear(x, weight)
    torch.testing.assert_close(fused.linear(x, weight), expected, **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(Ops.cpu().linear(x, weight), expected, **CLOSE)


def test_views_and_other_dtypes() -> None:
    ops, columns = Ops.cpu(), torch.randn(17, 4)
    with torch.no_grad():
        for x in (columns.T, torch.randn(2, 40)[:, 3:20], torch.randn(6, 17)[::2], torch.randn(0, 17)):
            for weight in (torch.randn(5, 17), torch.randn(17, 5).T, torch.randn(0, 17)):
                torch.testing.assert_close(ops.linear(x, weight), x @ weight.T, **CLOSE)
        for dtype in (torch.float64, torch.bfloat16):
            x, weight = torch.randn(1, 17).to(dtype), torch.randn(5, 17).to(dtype)
            assert torch.equal(ops.linear(x, weight), fused.linear(x, weight))


def test_gradients_flow() -> None:
    x, weight = torch.randn(1, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    Ops.cpu().linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(0, keepdim=True))


def test_nan_and_infinity_keep_their_meaning() -> None:
    weight = torch.ones(3, 40)
    weight[0, 7], weight[1, 30] = float("nan"), float("inf")
    with torch.no_grad():
        out = Ops.cpu().linear(torch.ones(1, 40), weight)
    assert out[0, 0].isnan() and out[0, 1].isposinf() and out[0, 2] == 40


def test_shapes_that_do_not_fit_are_refused() -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match=r"x \[1, 5\] does not fit weight \[3, 6\]"):
        Ops.cpu().linear(torch.zeros(1, 5), torch.zeros(3, 6))


TWO_CALLERS = """
import threading
import torch
from minimax_m1.kernels.ops import Ops

ops, wrong = Ops.cpu(), []

def work(seed):
    torch.set_num_threads(2)  # a thread of Python has a count of its own
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(n, 512, generator=generator) for n in (1, 2048))
    expected = x @ weight.T
    experts, weights = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])
    w13, w2 = torch.randn(2, 1024, 512, generator=generator) / 16, torch.randn(2, 512, 512, generator=generator) / 16
    with torch.no_grad():
        first = ops.moe(x, experts, weights, w13, w2)
        for _ in range(30):
            if not torch.allclose(ops.linear(x, weight), expected, atol=1e-3):
                wrong.append("linear")
            if not torch.equal(ops.moe(x, experts, weights, w13, w2), first):
                wrong.append("moe")

callers = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert not wrong, wrong
print("fine")
"""


def test_two_python_threads_may_call_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_CALLERS], capture_output=True, text=True, timeout=100)
    assert done.stdout == "fine\n", done.stderr
