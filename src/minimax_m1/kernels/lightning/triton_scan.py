"""The scan of lightning attention as a program runs it: some value columns of one head of one sequence, or of a piece.

In: q, k, v [T, H, D] in any roles that a gradient needs, slopes [H], states [N, H, D, D] or none, and
`Segments.pieces`. Out: [T, H, D], states where they are wanted. The state stays in float32 registers; blocks of
tokens are loaded beside the work on those before. triton.py says who runs what.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scan_kernel(
    q,
    k,
    v,
    out,
    states,
    own,
    ends,
    slopes,
    table,
    longest,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    H: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    W: tl.constexpr,
    REVERSE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One scan a program, as `_walk` says."""
    _walk(
        *(q, k, v, out, states, own, ends, slopes, table, longest),
        *(q_row, q_head, k_row, k_head, v_row, v_head, tl.program_id(0)),
        *(H, D, P, B, W, REVERSE, TRANSPOSED, STAGES, PRECISION),
    )


@triton.jit
def pull_kernel(
    q,
    k,
    v,
    grad,  # [T, H, D], contiguous
    d_k,
    d_v,
    last,
    own,
    d_states,
    slopes,
    table,
    longest,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    H: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    W: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of values and of keys, side by side: both read all four tensors, which come from memory once."""
    program = tl.program_id(0) // 2
    if tl.program_id(0) % 2 == 0:
        _walk(
            *(k, q, grad, d_v, last, own, d_states, slopes, table, longest),
            *(k_row, k_head, q_row, q_head, H * D, D, program),
            *(H, D, P, B, W, True, False, STAGES, PRECISION),
        )
    else:
        _walk(
            *(v, grad, q, d_k, last, own, None, slopes, table, longest),
            *(v_row, v_head, H * D, D, q_row, q_head, program),
            *(H, D, P, B, W, True, True, STAGES, PRECISION),
        )


@triton.jit
def _walk(
    q,  # [T, H, D]; None: only what the tokens add to a state is wanted, for each piece
    k,  # [T, H, D]
    v,  # [T, H, D]
    out,  # [T, H, D], contiguous
    states,  # [N, H, D, D]; None: zeros
    own,  # [pieces, H, D, D] what each piece adds; None: sequences are whole
    ends,  # [N, H, D, D], or [pieces, H, D, D] without q; None: not wanted
    slopes,  # [H]
    table,  # [pieces, 6]
    longest,  # tokens of a piece, where sequences are cut
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    program,
    H: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,  # D, rounded up to a power of two
    B: tl.constexpr,
    W: tl.constexpr,
    REVERSE: tl.constexpr,  # time runs backwards, and a token reads the state before it has faded
    TRANSPOSED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Block by block: out = (q kᵀ ⊙ decay) v + λʲ q state, then state = λᵐ state + kᵀ (λᵐ⁻ʲ v), for m tokens."""
    SLICES: tl.constexpr = (D + W - 1) // W
    head = (program // SLICES % H).to(tl.int64)
    table += program // (SLICES * H) * 6
    sequence = tl.load(table)
    start = tl.load(table + 1)
    length = tl.load(table + 2).to(tl.int32)
    piece = tl.load(table + 3)
    count = tl.load(table + 4).to(tl.int32)
    rank = tl.load(table + 5).to(tl.int32)
    slope = tl.load(slopes + head).to(tl.float32)
    kind: tl.constexpr = k.dtype.element_ty

    wide = tl.arange(0, P)
    columns = program % SLICES * W + tl.arange(0, W)
    real = (wide < D)[:, None] & (columns < D)[None, :]  # [P, W]
    entries = wide[:, None] * D + columns[None, :]
    given = wide[:, None] + columns[None, :] * D if TRANSPOSED else entries
    state = tl.zeros((P, W), tl.float32)
    if states is not None:
        state = tl.load(states + (sequence * H + head) * D * D + given, mask=real, other=0.0)
    if own is not None:
        for i in range(count - 1 - rank if REVERSE else rank):
            other = count - 1 - i if REVERSE else i
            faded_by = tl.exp(-slope * tl.minimum(length - other * longest, longest))
            added = tl.load(own + ((piece + other) * H + head) * D * D + given, mask=real, other=0.0)
            state = state * faded_by + added
    if q is None or own is not None:
        start += rank * longest
        length = tl.minimum(length - rank * longest, longest)

    rows = tl.arange(0, B)
    gap = rows[None, :] - rows[:, None] if REVERSE else rows[:, None] - rows[None, :]  # [B, B]
    decay = tl.where(gap >= 0, tl.exp(-slope * tl.maximum(gap, 0)), 0.0)
    q_at = rows[:, None] * q_row + wide[None, :]  # [B, P]
    k_at = rows[:, None] * k_row + wide[None, :]  # [B, P]
    v_at = rows[:, None] * v_row + columns[None, :]  # [B, W]
    out_at = rows[:, None] * (H * D) + columns[None, :]  # [B, W]
    blocks = tl.cdiv(length, B)
    for i in tl.range(blocks, num_stages=STAGES):
        begin = (blocks - 1 - i if REVERSE else i) * B
        m = tl.minimum(length - begin, B)
        row = start + begin
        here = (rows < m)[:, None]
        here_wide = here if P == D else here & (wide < D)[None, :]
        here_columns = here if D % W == 0 else here & (columns < D)[None, :]
        k_ = tl.load(k + head * k_head + row * k_row + k_at, mask=here_wide, other=0.0)
        v_ = tl.load(v + head * v_head + row * v_row + v_at, mask=here_columns, other=0.0)
        since, until = rows + 1, tl.maximum(m - 1 - rows, 0)
        # The values fade, not the keys: they are fewer, and keys go to the tensor cores as they were loaded.
        fade = tl.exp(-slope * (since if REVERSE else until))
        faded = (v_.to(tl.float32) * fade[:, None]).to(kind)
        if q is not None:
            q_ = tl.load(q + head * q_head + row * q_row + q_at, mask=here_wide, other=0.0)
            scores = (tl.dot(q_, tl.trans(k_), input_precision=PRECISION) * decay).to(kind)  # [B, B]
            mixed = tl.dot(q_, state.to(kind), input_precision=PRECISION)  # [B, W]
            mixed *= tl.exp(-slope * (until if REVERSE else since))[:, None]
            mixed = tl.dot(scores, v_, mixed, input_precision=PRECISION)
        state = tl.dot(tl.trans(k_), faded, state * tl.exp(-slope * m), input_precision=PRECISION)
        if q is not None:
            tl.store(out + head * D + row * (H * D) + out_at, mixed.to(kind), mask=here_columns)
    if ends is not None:
        if q is None:
            tl.store(ends + ((piece + rank) * H + head) * D * D + entries, state, mask=real)
        elif rank == (0 if REVERSE else count - 1):
            tl.store(ends + (sequence * H + head) * D * D + entries, state, mask=real)
