"""The scan that keeps its state on the chip against the recurrence: values, states and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.lightning import reference
from minimax_m1.kernels.lightning.triton import Tiles, _Launch, block_size, choose_tiles, lightning
from minimax_m1.kernels.segments import Segments
from minimax_m1.model.lightning import slopes

SMALL = Tiles(block=16, columns=16)
MANY = 1 << 20  # programs: cuts long sequences into as many pieces as it may
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def inputs(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v as views of one head-major tensor, slopes, states."""
    qkv = torch.randn(sum(lengths), heads, 3 * width, device=device).to(dtype)
    q, k, v = qkv.split(width, -1)
    return q, k, v, slopes(heads, 1, 8).to(device), torch.randn(len(lengths), heads, width, width, device=device)


def off(name: str, mine: Tensor, exact: Tensor) -> float:
    error = float((mine.double() - exact).norm() / exact.norm().clamp(min=1e-30))
    print(f"{name}: {error:.2e}")
    return error


def agrees(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, device: torch.device, tiles: Tiles | None
) -> None:
    """Outputs, states and all gradients, on the inputs of one shape."""
    segments = Segments.of(lengths)
    q, k, v, s, states = inputs(lengths, heads, width, dtype, device)
    weight, end_weight = torch.randn(q.shape, device=device), torch.randn_like(states)
    results = []
    for exact in (True, False):
        leaves = [x.double() if exact else x.detach() for x in (q, k, v, states)]
        for leaf in leaves:
            leaf.requires_grad_()
        if exact:
            out, ends = reference.lightning(*leaves[:3], s.double(), segments, leaves[3])
        else:
            out, ends = lightning(*leaves[:3], s, segments, leaves[3], tiles=tiles)
            assert out.dtype == dtype and ends.dtype == torch.float32
        grads = torch.autograd.grad((out * weight).sum() + (ends * end_weight).sum(), leaves)
        results.append([out.detach(), ends.detach(), *grads])
    names = ("out", "ends", "d_q", "d_k", "d_v", "d_states")
    for name, mine, truth in zip(names, results[1], results[0], strict=True):
        assert off(name, mine, truth) < BOUNDS[dtype], name


@pytest.mark.parametrize("lengths", [[1], [16], [37], [5, 0, 33, 1, 16]])
def test_outputs_states_and_gradients_are_the_references(lengths: list[int], device: torch.device) -> None:
    agrees(lengths, 3, 16, torch.float32, device, SMALL)


@pytest.mark.parametrize("width", [32, 48, 80, 96, 128, 256])
def test_any_multiple_of_sixteen_is_a_head_width(width: int, device: torch.device) -> None:
    agrees([19, 3], 1, width, torch.float32, device, None)


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_any_block_size_gives_the_same(block: int, device: torch.device) -> None:
    agrees([2 * block + 3, 7], 1, 16, torch.float32, device, Tiles(block=block, columns=16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_tokens_lose_no_more_than_their_rounding(dtype: torch.dtype, device: torch.device) -> None:
    agrees([70, 1, 150], 2, 32, dtype, device, None)


@pytest.mark.parametrize(("length", "block"), [(1, 16), (20, 32), (40, 64), (8192, 64)])
def test_lengths_choose_the_block(length: int, block: int) -> None:
    segments = Segments.of([length] * 3)
    assert block_size(segments) == choose_tiles(segments, 128, torch.bfloat16).block == block


@pytest.mark.parametrize(("heads", "length", "pieces"), [(200, 2**20, 1), (8, 2**20, 49), (8, 1024, 1)])
def test_few_heads_share_a_long_sequence_out(heads: int, length: int, pieces: int) -> None:
    """At nano's width an H100 runs 396 programs at once."""
    q, segments = torch.empty(length, heads, 32, device="meta"), Segments.of([length])
    launch = _Launch.of(q, torch.empty(heads, device="meta"), segments, choose_tiles(segments, 32, torch.bfloat16))
    assert (launch.states[0], launch.whole) == (pieces, pieces == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[2100], [1, 1600, 0, 30]])
def test_pieces_of_a_sequence_add_up(lengths: list[int], dtype: torch.dtype, device: torch.device) -> None:
    agrees(lengths, 1, 16, dtype, device, Tiles(block=64, columns=16, programs=MANY))


def test_pieces_stand_in_a_table_the_longest_first(device: torch.device) -> None:
    """A sequence, its first token and its length; its first piece, its pieces and which this is."""
    segments = Segments.of([5, 0, 11])
    table = segments.pieces(4, device)
    assert table.tolist() == [
        [0, 0, 5, 0, 2, 0],
        [2, 5, 11, 3, 3, 0],
        [2, 5, 11, 3, 3, 1],
        [2, 5, 11, 3, 3, 2],
        [0, 0, 5, 0, 2, 1],
        [1, 5, 0, 2, 1, 0],
    ]
    assert segments.pieces(4, device) is table and segments.pieces(11, device)[:, 5].eq(0).all()


def test_a_cut_anywhere_changes_nothing(device: torch.device) -> None:
    q, k, v, s, states = inputs([90], 2, 16, torch.float32, device)
    whole, end = lightning(q, k, v, s, Segments.of([90]), states, tiles=SMALL)
    for cut in (0, 1, 16, 47, 90):
        first, middle = lightning(q[:cut], k[:cut], v[:cut], s, Segments.of([cut]), states, tiles=SMALL)
        second, last = lightning(q[cut:], k[cut:], v[cut:], s, Segments.of([90 - cut]), middle, tiles=SMALL)
        torch.testing.assert_close(torch.cat((first, second)), whole, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(last, end, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 78])
@pytest.mark.parametrize("block", [64, 128, 256])
def test_slopes_of_the_published_model_are_safe(layer: int, block: int, device: torch.device) -> None:
    """The first layer's fastest head forgets within a block; the last one's slowest hardly forgets."""
    q, k, v, _, states = inputs([300], 2, 16, torch.float32, device)
    s, segments = slopes(64, layer, 80)[[0, 63]].to(device), Segments.of([300])
    exact, exact_ends = reference.lightning(*(x.double() for x in (q, k, v, s)), segments, states.double())
    out, ends = lightning(q, k, v, s, segments, states, tiles=Tiles(block=block, columns=16))
    assert off("out", out, exact) < 1e-5 and off("ends", ends, exact_ends) < 1e-5


def test_a_bfloat16_state_is_off_by_the_rounding_of_values_alone(device: torch.device) -> None:
    q, k, v, s, states = inputs([700], 2, 32, torch.bfloat16, device)
    segments = Segments.of([700])
    _, exact = reference.lightning(*(x.double() for x in (q, k, v, s)), segments, states.double())
    _, ends = lightning(q, k, v, s, segments, states)
    assert ends.dtype == torch.float32 and off("ends", ends, exact) < 2e-3


def test_the_callers_state_is_left_alone_and_no_gradient_is_kept_unasked(device: torch.device) -> None:
    q, k, v, s, states = inputs([20, 0, 1], 2, 16, torch.float32, device)
    kept = states.clone()
    out, ends = lightning(q, k, v, s, Segments.of([20, 0, 1]), states)
    assert torch.equal(states, kept) and torch.equal(ends[1], states[1])
    assert out.grad_fn is None and out.is_contiguous()
    with torch.no_grad():
        assert lightning(q.requires_grad_(), k, v, s, Segments.of([20, 0, 1]), states)[0].grad_fn is None


@pytest.mark.parametrize("wanted", [[0], [1, 3], [2], [3]])
@pytest.mark.parametrize("pick", [0, 1])
def test_unused_outputs_and_inputs_have_no_say_in_gradients(pick: int, wanted: list[int], device: torch.device) -> None:
    segments = Segments.of([5, 40])
    q, k, v, s, states = inputs([5, 40], 2, 16, torch.float32, device)
    mine, exact = ([kind(x) for x in (q, k, v, states)] for kind in (Tensor.clone, Tensor.double))
    for leaves in (mine, exact):
        for which in wanted:
            leaves[which].requires_grad_()
    found = lightning(*mine[:3], s, segments, mine[3], tiles=SMALL)[pick].square().sum()
    truth = reference.lightning(*exact[:3], s.double(), segments, exact[3])[pick].square().sum()
    if not truth.requires_grad:  # the last states do not depend on q
        assert pick == 1 and wanted == [0] and not torch.autograd.grad(found, mine[0])[0].any()
        return
    grads = torch.autograd.grad(found, [mine[n] for n in wanted])
    truths = torch.autograd.grad(truth, [exact[n] for n in wanted])
    for name, got, right in zip(wanted, grads, truths, strict=True):
        assert off(f"input {name}", got, right) < 1e-5


def test_a_gradient_of_a_gradient_is_refused(device: torch.device) -> None:
    q, k, v, s, states = inputs([9], 1, 16, torch.float32, device)
    out, _ = lightning(q.requires_grad_(), k, v, s, Segments.of([9]), states)
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_no_tokens_leave_states_as_they_are(device: torch.device) -> None:
    q, k, v, s, states = inputs([0, 0], 2, 16, torch.bfloat16, device)
    out, ends = lightning(q, k, v, s, Segments.of([0, 0]), states)
    assert out.shape == (0, 2, 16) and torch.equal(ends, states)


def test_shapes_and_dtypes_that_do_not_fit_are_refused(device: torch.device) -> None:
    for width in (8, 24, 272):
        q, k, v, s, states = inputs([3], 1, width, torch.float32, device)
        with pytest.raises(ValueError, match=rf"\[3, 1, {width}\].*multiples of 16 up to 256"):
            lightning(q, k, v, s, Segments.of([3]), states)
    q, k, v, s, states = inputs([16], 1, 16, torch.float32, device)
    with pytest.raises(ValueError, match="float64"):
        lightning(q.double(), k.double(), v.double(), s, Segments.of([16]), states)
    with pytest.raises(ValueError, match="bfloat16"):
        lightning(q, k.bfloat16(), v, s, Segments.of([16]), states)
    with pytest.raises(ValueError, match="last strides"):
        lightning(q.transpose(0, 2).contiguous().transpose(0, 2), k, v, s, Segments.of([16]), states)
    with pytest.raises(AssertionError, match="float32"):
        lightning(q, k, v, s, Segments.of([16]), states.bfloat16())
