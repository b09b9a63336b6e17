"""Which library computes attention of many queries, and that each is told the right thing. Those that run on GPUs only
are stood in for here by plain attention under their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch

from minimax_m1.kernels.attention import reference, varlen
from minimax_m1.kernels.segments import Segments

LOW, WIDE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "width", "packages", "chosen"),
    [
        ("cuda", (9, 0), LOW, 128, [], "flash"),
        ("cuda", (8, 0), torch.float16, 32, [], "flash"),
        ("cuda", (9, 0), LOW, 128, ["flash_attn"], "flash_attn"),
        ("cuda", (9, 0), LOW, 128, ["flash_attn", "flash_attn_interface"], "flash_attn_interface"),
        ("cuda", (8, 0), LOW, 128, ["flash_attn_interface"], "flash"),
        ("cuda", (10, 0), LOW, 128, ["flash_attn_interface"], "flash"),
        ("cuda", (7, 5), torch.float16, 128, ["flash_attn"], "torch"),
        ("cuda", (9, 0), WIDE, 128, ["flash_attn"], "torch"),
        ("cuda", (9, 0), LOW, 272, ["flash_attn"], "torch"),
        ("cuda", (9, 0), LOW, 20, [], "torch"),
        ("cpu", (0, 0), LOW, 128, ["flash_attn"], "torch"),
    ],
)
def test_the_rule(
    device: str, capability: tuple[int, int], dtype: torch.dtype, width: int, packages: list[str], chosen: str
) -> None:
    assert varlen.choose(device, capability, dtype, width, packages.__contains__) == chosen


def plain(q: Any, k: Any, v: Any, queries: list[int], keys: list[int]) -> torch.Tensor:
    return reference.attention(q, k.split(keys), v.split(keys), Segments.of(queries))


def lengths(starts: torch.Tensor) -> list[int]:
    assert starts.dtype is torch.int32
    return [b - a for a, b in pairwise(starts.tolist())]


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture(params=["flash", "flash_attn"])
def library(request: pytest.FixtureRequest, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library in the place of the real one. torch's own operator keeps torch's own way to its gradients."""
    monkeypatch.setattr(varlen, "library_of", lambda _: request.param)
    if request.param == "flash":
        registered = torch.library.Library("aten", "IMPL")
        registered.impl("_flash_attention_forward", _forward(calls), "CPU")
        registered.impl("_flash_attention_backward", _backward, "CPU")
        yield request.param
        registered._destroy()
        return
    package = ModuleType("flash_attn")

    def one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> Any:
        assert causal and len(q) == len(k) == 1
        calls.append("one")
        return plain(q[0], k[0], v[0], [q.shape[1]], [k.shape[1]])[None], None

    def several(q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, most_q: int, most_k: int, *, causal: bool) -> Any:
        assert causal and most_q == max(lengths(starts_q)) and most_k == max(lengths(starts_k))
        calls.append("several")
        return plain(q, k, v, lengths(starts_q), lengths(starts_k))

    package.flash_attn_func, package.flash_attn_varlen_func = one, several  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    yield request.param


def _forward(calls: list[str]) -> Any:
    def forward(
        q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, most_q: int, most_k: int, *rest: Any, **_: Any
    ) -> Any:
        assert rest == (0.0, True, False)
        calls.append("one" if starts_q is None else "several")
        queries, keys = _edges(q, k, starts_q, starts_k)
        assert max(queries) == most_q and max(keys) == most_k
        flat = [x.flatten(0, -3) for x in (q, k, v)]
        out = plain(*flat, queries, keys).view(q.shape)
        return out, q.new_empty(1), q.new_empty(2), q.new_empty(0), q.new_empty(0)

    return forward


def _backward(
    grad: Any, q: Any, k: Any, v: Any, _out: Any, _logs: Any, starts_q: Any, starts_k: Any, *_: Any, **__: Any
) -> Any:
    queries, keys = _edges(q, k, starts_q, starts_k)

    def differentiated() -> Any:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = plain(*(x.flatten(0, -3) for x in leaves), queries, keys)
        return torch.autograd.grad(out, leaves, grad.reshape(out.shape))

    with ThreadPoolExecutor(1) as fresh:  # this thread is below autograd
        return fresh.submit(differentiated).result()


def _edges(q: Any, k: Any, starts_q: Any, starts_k: Any) -> tuple[list[int], list[int]]:
    if starts_q is None or starts_q.numel() == 0:
        return [q.shape[1]], [k.shape[1]]
    return lengths(starts_q), lengths(starts_k)


def results(
    op: Any, new: list[int], past: list[int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Output, and gradients of queries, and of all keys and values."""
    generator = torch.Generator().manual_seed(1)

    def drawn(rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, 16, generator=generator).to(dtype).requires_grad_()

    q = drawn(sum(new), 4)
    held = [[drawn(a + b, 2) for a, b in zip(new, past, strict=True)] for _ in range(2)]
    out = op(q, *held, Segments.of(new))
    out.square().sum().backward()
    assert q.grad is not None
    return (
        out.detach(),
        q.grad,
        [x.grad for kind in held for x, n in zip(kind, new * 2, strict=False) if n and x.grad is not None],
    )


@pytest.mark.parametrize(
    ("new", "past", "expected"),
    [([7], [0], ["one"]), ([3], [8], ["one"]), ([7, 1, 30], [0] * 3, ["several"]), ([5, 0, 2], [0] * 3, ["several"]),
     ([5, 1, 2], [0, 9, 3], ["one"] * 3), ([0, 4], [6, 2], ["one"])],
)  # fmt: skip
def test_outputs_and_gradients_are_the_references(
    library: str, new: list[int], past: list[int], expected: list[str], calls: list[str]
) -> None:
    mine, theirs = results(varlen.attention, new, past, WIDE), results(reference.attention, new, past, torch.float64)
    assert calls == expected
    torch.testing.assert_close(mine[0].double(), theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine[1].double(), theirs[1], rtol=1e-4, atol=1e-5)
    assert len(mine[2]) == len(theirs[2]) == 2 * sum(n > 0 for n in new)
    for a, b in zip(mine[2], theirs[2], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("new", "held"), [([3, 5], [9, 5]), ([2], [11]), ([4, 0, 1], [4, 3, 20])])
def test_rows_one_sequence_after_the_other_are_taken_as_they_lie(library: str, new: list[int], held: list[int]) -> None:
    q, key, value = torch.randn(sum(new), 4, 16), torch.randn(sum(held), 2, 16), torch.randn(sum(held), 2, 16)
    starts = torch.tensor([0, *torch.tensor(held).cumsum(0).tolist()], dtype=torch.int32)
    out = varlen.packed(q, key, value, Segments.of(new), starts, held)
    torch.testing.assert_close(out, plain(q, key, value, new, held))


def test_kept_keys_of_another_dtype_are_brought_to_the_queries(library: str, calls: list[str]) -> None:
    q = torch.randn(3, 4, 16).bfloat16()
    keys, values = [torch.randn(9, 2, 16)], [torch.randn(9, 2, 16)]
    out = varlen.attention(q, keys, values, Segments.of([3]))
    assert out.dtype is torch.bfloat16 and calls == ["one"]


def test_on_a_cpu_it_is_torchs_own_function_and_no_rows_are_no_rows() -> None:
    q, held, segments = torch.randn(4, 4, 16), [torch.randn(6, 2, 16), torch.randn(1, 2, 16)], Segments.of([3, 1])
    torch.testing.assert_close(
        varlen.attention(q, held, held, segments), plain(q, torch.cat(held), torch.cat(held), [3, 1], [6, 1])
    )
    assert varlen.attention(q[:0], held, held, Segments.of([0, 0])).shape == (0, 4, 16)


@pytest.mark.parametrize(("new", "held"), [([3, 5], [9, 5]), ([4], [11])])
def test_torchs_own_operator_takes_what_it_is_told(
    new: list[int], held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "library_of", lambda _: "flash")
    q = torch.empty(sum(new), 4, 16, dtype=LOW, device="meta", requires_grad=True)
    key, value = (torch.empty(sum(held), 2, 16, dtype=LOW, device="meta", requires_grad=True) for _ in range(2))
    starts = torch.empty(len(held) + 1, dtype=torch.int32, device="meta")
    out = varlen.packed(q, key, value, Segments.of(new), starts, held)
    assert out.shape == q.shape and out.dtype is LOW
    out.sum().backward()
    assert [x.grad.shape for x in (q, key, value) if x.grad is not None] == [q.shape, key.shape, value.shape]
