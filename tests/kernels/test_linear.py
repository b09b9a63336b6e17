"""The linear map: the compiled form against the plain one, what it leaves to torch, and callers at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from minimax_m1.kernels.linear import reference
from minimax_m1.kernels.linear import torch as fused
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.quantized import Int8

CLOSE = {"rtol": 1e-5, "atol": 5e-5}  # sums of up to 768 products, in any order


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 40])
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (3, 17), (17, 3), (250, 250), (256, 768)])
def test_every_form_equals_the_plain_one(rows: int, width: int, outputs: int) -> None:
    x, weight = torch.randn(rows, width), torch.randn(outputs, width)
    expected = reference.linear(x, weight)
    torch.testing.assert_close(fused.linear(x, weight), expected, **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(Ops.cpu().linear(x, weight), expected, **CLOSE)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def exact(x: torch.Tensor, weight: torch.Tensor | Int8) -> torch.Tensor:
    return reference.linear(x.double(), weight).to(x.dtype)


def close_to(x: torch.Tensor) -> dict[str, float]:
    return CLOSE if x.dtype == torch.float32 else {"rtol": 2**-8, "atol": 2e-3}  # one rounding, at the end


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", ["bfloat16", "int8"])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 16, 17])
@pytest.mark.parametrize(("width", "outputs"), [(1, 1), (3, 17), (17, 3), (250, 250), (256, 768)])
def test_narrow_weights_equal_the_plain_form(
    dtype: torch.dtype, held: str, rows: int, width: int, outputs: int
) -> None:
    x, weight = torch.randn(rows, width).to(dtype), torch.randn(outputs, width).bfloat16()
    narrow = Int8.of(weight) if held == "int8" else weight
    told = exact(x, narrow)
    with torch.inference_mode():
        out = Ops.cpu().linear(x, narrow)
        assert out.dtype == dtype
        torch.testing.assert_close(out, told, **close_to(x))
        made = fused.linear(x, narrow)  # rounds an int8 weight to bfloat16 first where x is, and a float32 x to 16 bits
        if held == "bfloat16":
            torch.testing.assert_close(made, told, **CLOSE if dtype == torch.float32 else {})
        else:
            assert (made - told).norm() <= (3e-4 if dtype == torch.float32 else 2e-2) * told.norm()


@pytest.mark.parametrize("held", ["float32", "bfloat16", "int8"])
def test_large_weights_on_any_number_of_threads(threads: int, held: str) -> None:
    x, weight = torch.randn(1, 512), torch.randn(1100, 512)
    narrow = Int8.of(weight) if held == "int8" else weight.to(getattr(torch, held))
    with torch.inference_mode():
        torch.testing.assert_close(Ops.cpu().linear(x, narrow), exact(x, narrow), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_bfloat16_results_round_as_torch_rounds(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (4096, 2), generator=generator).to(torch.int16)
    weight, x = bits.view(torch.bfloat16), torch.tensor([[1.0, 1.0]] * rows, dtype=torch.bfloat16)
    weight[:4] = torch.tensor([[1, 2**-8], [1, 3 * 2**-8], [torch.inf, 1], [torch.finfo(x.dtype).max] * 2])  # ties
    sums = weight.float()[:, 0] + weight.float()[:, 1]
    assert (
        sums.isnan().any() and (sums.bfloat16()[:4].float() == torch.tensor([1, 1 + 2**-6, torch.inf, torch.inf])).all()
    )
    with torch.inference_mode():
        out = Ops.cpu().linear(x, weight)
    for row in out:
        torch.testing.assert_close(row, sums.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_a_weight_wider_than_its_input_is_refused() -> None:
    for ops in (Ops.cpu(), Ops.torch(), Ops.reference()):
        with torch.no_grad(), pytest.raises(RuntimeError):
            ops.linear(torch.ones(1, 4).bfloat16(), torch.ones(3, 4))


def test_torch_widens_a_long_weight_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_ROWS", 7)
    x, weight = torch.randn(3, 5), torch.randn(30, 5).bfloat16()
    torch.testing.assert_close(fused.linear(x, weight), x @ weight.float().T)


def test_views_and_other_dtypes() -> None:
    ops, columns = Ops.cpu(), torch.randn(17, 4)
    with torch.no_grad():
        for x in (columns.T, torch.randn(2, 40)[:, 3:20], torch.randn(6, 17)[::2], torch.randn(0, 17)):
            for weight in (torch.randn(5, 17), torch.randn(17, 5).T, torch.randn(0, 17)):
                torch.testing.assert_close(ops.linear(x, weight), x @ weight.T, **CLOSE)
        for dtype in (torch.float64, torch.float16):
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
