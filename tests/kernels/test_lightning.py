"""The block algorithm against the recurrence: values, states, gradients, for any lengths and a cut anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.kernels.lightning import reference
from minimax_m1.kernels.lightning import torch as fast
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.segments import Blocks, Segments
from minimax_m1.model.lightning import slopes


def inputs(lengths: list[int], heads: int = 3, width: int = 4, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(sum(lengths), heads, width, generator=generator, dtype=torch.float64) for _ in range(3))
    states = torch.randn(len(lengths), heads, width, width, generator=generator, dtype=torch.float64)
    return q, k, v, slopes(heads, 1, 8).double(), states


@given(st.lists(st.integers(0, 90), min_size=1, max_size=5), st.integers(0, 1000))
def test_blocks_equal_the_recurrence(lengths: list[int], seed: int) -> None:
    q, k, v, s, states = inputs(lengths, seed=seed)
    segments = Segments.of(lengths)
    expected, expected_ends = reference.lightning(q, k, v, s, segments, states)
    out, ends = fast.lightning(q, k, v, s, segments, states)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ends, expected_ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", [[63], [100], [1, 1, 1], [256], [1, 1, 70], [300, 1, 64, 0, 1], [0, 7]])
def test_gradients_equal_the_reference(lengths: list[int]) -> None:
    segments = Segments.of(lengths)
    grads = []
    for lightning in (reference.lightning, fast.lightning):
        q, k, v, s, states = inputs(lengths)
        leaves = [x.requires_grad_() for x in (q, k, v, states)]
        out, ends = lightning(q, k, v, s, segments, states)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        ((out * weight).sum() + (ends * ends).sum()).backward()
        grads.append([x.grad for x in leaves])
    for mine, theirs in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@given(st.integers(1, 200), st.data())
def test_a_cut_anywhere_changes_nothing(length: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, length))
    q, k, v, s, states = inputs([length])
    whole, end = fast.lightning(q, k, v, s, Segments.of([length]), states)
    first, middle = fast.lightning(q[:cut], k[:cut], v[:cut], s, Segments.of([cut]), states)
    second, last = fast.lightning(q[cut:], k[cut:], v[cut:], s, Segments.of([length - cut]), middle)
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(last, end, rtol=1e-9, atol=1e-9)


def test_the_callers_state_is_left_alone() -> None:
    for lengths in ([5, 70], [1, 1], [1, 1, 70, 0], [0]):
        q, k, v, s, states = inputs(lengths)
        kept = states.clone()
        fast.lightning(q, k, v, s, Segments.of(lengths), states)
        assert torch.equal(states, kept)


def test_bfloat16_tokens_keep_a_float32_state() -> None:
    q, k, v, s, states = inputs([300])
    exact, exact_end = reference.lightning(q, k, v, s, Segments.of([300]), states)
    low = [x.bfloat16() for x in (q, k, v)]
    out, end = fast.lightning(*low, s.float(), Segments.of([300]), states.float())
    assert out.dtype == torch.bfloat16 and end.dtype == torch.float32
    assert (end - exact_end).norm() / exact_end.norm() < 1e-2
    assert (out.double() - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize("lengths", [[63], [700], [1, 1, 70], [300, 1, 64, 0, 1], [0, 7]])
@pytest.mark.parametrize(("heads", "width"), [(3, 17), (4, 64)])
def test_bfloat16_blocks_round_products_but_no_state(lengths: list[int], heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(sum(lengths), heads, 3 * width, generator=generator).bfloat16()
    states = torch.randn(len(lengths), heads, width, width, generator=generator)
    segments, s, tokens = Segments.of(lengths), slopes(heads, 1, 8), qkv.split(width, -1)
    exact, exact_ends = reference.lightning(*(x.double() for x in tokens), s.double(), segments, states.double())
    out, ends = fast.lightning(*tokens, s, segments, states)
    with_gradients, ends_with_gradients = fast.lightning(*(x.requires_grad_() for x in tokens), s, segments, states)
    assert out.dtype == torch.bfloat16 and ends.dtype == torch.float32
    assert (ends - exact_ends).norm() < 1e-6 * exact_ends.norm() + 1e-12
    assert torch.equal(ends, ends_with_gradients) and torch.equal(out, with_gradients)
    assert (out - exact).norm() < 4e-3 * exact.norm()
    assert ends.grad_fn is None and with_gradients.grad_fn is not None


@pytest.mark.parametrize("lengths", [[63], [1, 700], [300, 1, 64, 0, 1]])
@pytest.mark.parametrize(("heads", "width"), [(3, 17), (4, 64)])
def test_bfloat16_gradients_are_the_references_but_for_rounding(lengths: list[int], heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(sum(lengths), heads, 3 * width, generator=generator).bfloat16()
    states = torch.randn(len(lengths), heads, width, width, generator=generator)
    segments, s = Segments.of(lengths), slopes(heads, 1, 8)
    grads = []
    for lightning, dtype in ((reference.lightning, torch.float64), (fast.lightning, torch.bfloat16)):
        accurate = torch.promote_types(dtype, torch.float32)
        leaves = qkv.to(dtype).requires_grad_(), states.to(accurate).requires_grad_()
        out, ends = lightning(*leaves[0].split(width, -1), s.to(accurate), segments, leaves[1])
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        ((out.double() * weight).sum() + (ends.double() ** 2).sum() / 100).backward()
        grads.append([x.grad for x in leaves])
    for mine, exact in zip(grads[1], grads[0], strict=True):
        assert (mine - exact).norm() < 6e-3 * exact.norm()


def test_unused_outputs_or_states_have_no_say_in_gradients() -> None:
    segments = Segments.of([5, 40])
    for pick in (0, 1):
        grads = []
        for lightning in (reference.lightning, fast.lightning):
            q, k, v, s, states = inputs([5, 40])
            leaves = [x.requires_grad_() for x in (k, v, states)]
            lightning(q, k, v, s, segments, states)[pick].square().sum().backward()
            grads.append([x.grad for x in leaves])
        for mine, theirs in zip(grads[1], grads[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    q, k, v, s, states = inputs([40, 3])
    out, _ = fast.lightning(q.requires_grad_(), k, v, s, Segments.of([40, 3]), states)
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_narrow_state_is_refused() -> None:
    q, k, v, s, states = inputs([3])
    with pytest.raises(AssertionError, match="float32"):
        fast.lightning(q.float(), k.float(), v.float(), s.float(), Segments.of([3]), states.bfloat16())


def test_memory_kept_for_the_backward_is_linear_in_length() -> None:
    def kept(length: int) -> int:
        size = 0

        def count(x: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += x.nbytes
            return x

        q, k, v, s, states = inputs([length], width=16)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            fast.lightning(q.requires_grad_(), k, v, s, Segments.of([length]), states)
        return size

    assert kept(16_384) <= 2.1 * kept(8_192)


@pytest.mark.parametrize("lengths", [[1, 1, 40], [40, 1, 0, 1, 2]])
def test_sequences_of_one_token_take_no_block(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    cut = []

    def seen(segments: Segments, size: int, device: torch.device) -> Blocks:
        cut.append(segments.lengths)
        return blocks(segments, size, device)

    blocks = Segments.blocks
    monkeypatch.setattr(Segments, "blocks", seen)
    q, k, v, s, states = inputs(lengths)
    fast.lightning(q, k, v, s, Segments.of(lengths), states)
    assert cut == [[n for n in lengths if n != 1]]


@pytest.mark.parametrize("lengths", [[1, 1], [1, 70]])
def test_autocast_leaves_the_state_in_float32(lengths: list[int]) -> None:
    q, k, v, s, states = (x.float() for x in inputs(lengths))
    expected, expected_ends = fast.lightning(q, k, v, s, Segments.of(lengths), states)
    with torch.autocast("cpu"):
        out, ends = fast.lightning(q, k, v, s, Segments.of(lengths), states)
    assert torch.equal(out, expected) and torch.equal(ends, expected_ends)


@pytest.mark.parametrize("lengths", [[1], [1] * 3, [1] * 40, [0, 1], [5, 1], [1, 1, 9, 0, 3], [4, 1, 0, 1, 9], [0]])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 17), (4, 64)])
def test_compiled_steps_equal_the_recurrence(lengths: list[int], heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(heads)
    qkv = torch.randn(sum(lengths), heads, 3 * width, generator=generator)
    states = torch.randn(len(lengths), heads, width, width, generator=generator)
    kept, segments, s = states.clone(), Segments.of(lengths), slopes(heads, 1, 8)
    mixed = qkv.split(width, -1)  # views with one stride, as the mixer makes them
    apart = mixed[0].contiguous(), mixed[1], mixed[2].transpose(0, 1).contiguous().transpose(0, 1)
    for q, k, v in (mixed, apart):
        expected, expected_ends = reference.lightning(q, k, v, s, segments, states)
        with torch.no_grad():
            out, ends = Ops.cpu().lightning(q, k, v, s, segments, states)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(ends, expected_ends, rtol=1e-5, atol=1e-5)
        assert torch.equal(states, kept)


@pytest.mark.parametrize("lengths", [[1], [1] * 40, [5, 1], [4, 1, 0, 1, 9]])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 17), (4, 64)])
def test_compiled_bfloat16_steps_equal_the_recurrence(lengths: list[int], heads: int, width: int) -> None:
    qkv = torch.randn(sum(lengths), heads, 3 * width).bfloat16()
    states = torch.randn(len(lengths), heads, width, width)
    segments, s = Segments.of(lengths), slopes(heads, 1, 8)
    expected, expected_ends = reference.lightning(*qkv.split(width, -1), s, segments, states)
    with torch.no_grad():
        out, ends = Ops.cpu().lightning(*qkv.split(width, -1), s, segments, states)
    assert out.dtype == torch.bfloat16 and ends.dtype == torch.float32
    torch.testing.assert_close(ends, expected_ends, rtol=1e-5, atol=2e-5)
    single = torch.tensor([n == 1 for n in lengths for _ in range(n)])
    torch.testing.assert_close(out[single], expected[single], rtol=2**-7, atol=1e-3)
    assert (out - expected)[~single].norm() <= 1e-2 * expected[~single].norm()  # blocks are torch's, in bfloat16
