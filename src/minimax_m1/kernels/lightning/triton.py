"""Lightning attention on a GPU: one scan over a sequence, its state on the chip from the first token to the last.

In and out as in reference.py; float32, bfloat16 or float16 tokens, head widths that are multiples of 16 up to 256. A
program owns some value columns of one head of one sequence and walks its blocks; nothing is written per block but the
outputs. Where there are too few heads and sequences to fill a GPU, long sequences are cut into pieces: one launch finds
the state that each piece adds, a second runs them all. The backward is the same scan three times, in two launches.
Scores, and states where they are read, are rounded to the tokens' dtype; sums and states are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from minimax_m1.kernels.eager import eager
from minimax_m1.kernels.gpu import FLOATS, MULTIPROCESSORS
from minimax_m1.kernels.lightning.triton_scan import pull_kernel, scan_kernel
from minimax_m1.kernels.segments import Segments

_WIDEST = 256
_SIZES = (16, 32, 64)  # 128 tokens by 64 columns of width 128 would take 256 KB of shared memory
# Guessed cycles of one block on an H100, from the instructions of its loop and the rate of the tensor cores.
_BLOCK, _TOKEN = 700, 19
_SHORTEST_PIECE = 1024  # tokens; below, a second launch costs more than it saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How the scan is cut up: tokens a block (16 to 256), value columns a program, warps and pipeline stages; and how
    many programs a GPU runs at once, so that long sequences are cut into pieces where there would be far fewer."""

    block: int
    columns: int
    warps: int = 4
    stages: int = 3
    programs: int = MULTIPROCESSORS


def choose_tiles(segments: Segments, width: int, dtype: torch.dtype) -> Tiles:
    """The sizes for these lengths, this head width and this dtype.

    With fewer than three stages no load runs beside the work on the block before; with four, two blocks are on their
    way. At width 128 in bfloat16 a program of 64 tokens by 64 columns fills the registers of four warps, spills 32
    bytes a thread and takes 176 KB of shared memory: one runs on each of the 132 multiprocessors of an H100. Narrow
    ones run two or three at once.
    """
    block, padded = block_size(segments), triton.next_power_of_2(width)
    if dtype is torch.float32:  # no tensor cores: small tiles, whose operands stay in registers
        return Tiles(block=16, columns=min(32, padded)) if width <= 64 else Tiles(block=16, columns=16, warps=8)
    if width > 128:
        return Tiles(block=min(32, block), columns=32, warps=8)
    if width > 64:
        return Tiles(block=block, columns=64 if width == 128 else 32, stages=4)
    return Tiles(
        block=block, columns=32 if width == 48 else padded, programs=MULTIPROCESSORS * (2 if width > 32 else 3)
    )


def block_size(segments: Segments) -> int:
    """The block size that costs least for these lengths (MiniMax-01, section 3.3)."""

    def cost(size: int) -> int:
        return sum(-(-length // size) for length in segments.lengths) * (_BLOCK + _TOKEN * size)

    return min(_SIZES, key=cost)


@eager
def lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    segments: Segments,
    states: Tensor,
    *,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """q, k, v [T, H, D] of one dtype, views whose last stride is 1 among them; slopes [H]; states [N, H, D, D] float32.

    Gives [T, H, D] and the states after each sequence, with gradients for q, k, v and states. bfloat16 outputs are off
    by 3e-3 of their norm and states by 2e-3, since faded values are rounded before they go in.
    ValueError for a dtype, a width or a layout that the kernel does not take.
    """
    assert q.shape == k.shape == v.shape and len(states) == len(segments) and len(q) == segments.total
    assert states.shape[1:] == (q.shape[1], q.shape[2], q.shape[2]) and slopes.shape == q.shape[1:2]
    assert states.dtype == torch.float32, "the state is float32"
    if q.shape[2] % 16 or not 16 <= q.shape[2] <= _WIDEST:
        raise ValueError(f"q is {list(q.shape)}: head widths are multiples of 16 up to {_WIDEST} here")
    if q.dtype not in FLOATS or not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v {list(q.shape)} are {q.dtype}, {k.dtype}, {v.dtype}; all are one of {FLOATS}")
    if any(x.stride(2) != 1 for x in (q, k, v)):
        raise ValueError(f"q, k, v {list(q.shape)} have last strides {[x.stride(2) for x in (q, k, v)]}, not 1")
    if segments.total == 0:
        return torch.zeros_like(q), states
    tiles = tiles or choose_tiles(segments, q.shape[2], q.dtype)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, states)):
        out, ends = _Scan.apply(q, k, v, slopes, states, segments, tiles)
        return out, ends
    return _forward(q, k, v, states, _Launch.of(q, slopes, segments, tiles))


def _forward(q: Tensor, k: Tensor, v: Tensor, states: Tensor, launch: _Launch) -> tuple[Tensor, Tensor]:
    out, ends = q.new_empty(q.shape), states.new_empty(states.shape)
    own = launch.own(k, v, reverse=False)
    launch.scan(q, k, v, out, states.contiguous(), own, ends)
    return out, ends


class _Scan(torch.autograd.Function):
    """`_forward` with its gradients; keeps q, k, v and the first states, and works every later state out again.

    With G the gradient of a state, dq_t = do_t S_tᵀ is the forward with other inputs. G_t = λ G_{t+1} + q_tᵀ do_t runs
    backwards in time, and dv_t = k_t G_t and dk_t = v_t G_tᵀ read it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor,
        states: Tensor,
        segments: Segments,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, slopes, states)
        ctx.segments, ctx.tiles = segments, tiles
        ctx.set_materialize_grads(False)
        return _forward(q, k, v, states, _Launch.of(q, slopes, segments, tiles))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, slopes, states = ctx.saved_tensors
        grad = q.new_zeros(q.shape) if grads[0] is None else grads[0].contiguous()
        last = None if grads[1] is None else grads[1].contiguous()
        by_q, by_k, by_v, _, by_states = ctx.needs_input_grad[:5]
        launch = _Launch.of(q, slopes, ctx.segments, ctx.tiles)
        d_q = d_k = d_v = d_states = None
        if by_q:
            d_q, own = q.new_empty(q.shape), launch.own(k, v, reverse=False)
            launch.scan(grad, v, k, d_q, states.contiguous(), own, None, transposed=True)
        if by_k or by_v or by_states:
            d_k, d_v = q.new_empty(q.shape), q.new_empty(q.shape)
            d_states = states.new_empty(states.shape) if by_states else None
            own = launch.own(q, grad, reverse=True)
            launch.pull(q, k, v, grad, d_k, d_v, last, own, d_states)
        return d_q, d_k if by_k else None, d_v if by_v else None, None, d_states, None, None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Launch:
    """How many programs there are for one batch, which of them does what, and what is compiled."""

    programs: int
    states: tuple[int, ...]  # the shape of a state for each piece
    whole: bool  # no sequence is cut
    which: tuple[Tensor, Tensor, int]  # slopes, the table of pieces, tokens of a piece
    sizes: dict[str, Any]

    @classmethod
    def of(cls, q: Tensor, slopes: Tensor, segments: Segments, tiles: Tiles) -> _Launch:
        heads, width = q.shape[1:]
        programs = heads * triton.cdiv(width, tiles.columns)
        longest = _longest_piece(segments, programs, tiles)
        table = segments.pieces(longest, q.device)
        whole = len(table) == len(segments)
        sizes = {
            "H": heads,
            "D": width,
            "P": triton.next_power_of_2(width),
            "B": tiles.block,
            "W": tiles.columns,
            "STAGES": tiles.stages,
            "PRECISION": "ieee" if q.dtype is torch.float32 else "tf32",  # which has a say for float32 alone
            "num_warps": tiles.warps,
        }
        return cls(
            programs=programs * len(table),
            states=(len(table), heads, width, width),
            whole=whole,
            which=(slopes, table, 0 if whole else longest),  # always a multiple of 16: one compiled kernel for all
            sizes=sizes,
        )

    def own(self, k: Tensor, v: Tensor, *, reverse: bool) -> Tensor | None:
        """What each piece adds to a state, [pieces, H, D, D]; None where sequences are whole."""
        if self.whole:
            return None
        own = k.new_empty(self.states, dtype=torch.float32)
        self.scan(None, k, v, None, None, None, own, reverse=reverse)
        return own

    def scan(
        self,
        q: Tensor | None,
        k: Tensor,
        v: Tensor,
        out: Tensor | None,
        states: Tensor | None,
        own: Tensor | None,
        ends: Tensor | None,
        *,
        reverse: bool = False,
        transposed: bool = False,
    ) -> None:
        """Fills out and ends, where given. `transposed`: states and own lie with k's columns last, not v's."""
        scan_kernel[(self.programs,)](
            *(q, k, v, out, states, own, ends, *self.which),
            *_strides(k if q is None else q, k, v),
            REVERSE=reverse,
            TRANSPOSED=transposed,
            **self.sizes,
        )

    def pull(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grad: Tensor,
        d_k: Tensor,
        d_v: Tensor,
        last: Tensor | None,
        own: Tensor | None,
        d_states: Tensor | None,
    ) -> None:
        """Fills d_k and d_v, and d_states where given, from the gradients of the outputs and of the last states."""
        pull_kernel[(2 * self.programs,)](
            *(q, k, v, grad, d_k, d_v, last, own, d_states, *self.which), *_strides(q, k, v), **self.sizes
        )


def _strides(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    return q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)


def _longest_piece(segments: Segments, programs: int, tiles: Tiles) -> int:
    """Tokens of a piece, where `programs` programs run one.

    All of the longest sequence, unless pieces of a fair share are faster, which read k and v twice and so take half as
    long again.
    """
    longest = max(segments.lengths)
    share = max(-(-segments.total // max(1, tiles.programs // programs)), _SHORTEST_PIECE)
    return longest if 2 * longest <= 3 * share else -(-share // tiles.block) * tiles.block
