"""The model for every variant: padding, state, dtypes, gradients, thresholds, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimax_m1.errors import RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.lightning import slopes
from minimax_m1.model.moe import balance_loss
from minimax_m1.model.state import State
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

SAME_MODEL = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_each_padded_row_equals_the_row_alone(model: MiniMaxM1ForCausalLM, side: str) -> None:
    lengths, width = [17, 1, 9, 0], 17
    rows, mask = ids(4, width), torch.zeros(4, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, width - length if side == "left" else 0 : width if side == "left" else length] = 1
    out = model(rows, mask)
    for row, length in enumerate(lengths):
        real = mask[row].bool()
        alone = model(rows[row, real][None])
        torch.testing.assert_close(out.logits[row, real], alone.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.router_logits[:, row, real], alone.router_logits[:, 0], rtol=1e-4, atol=1e-5)
        assert out.state.lengths[row] == length
    after = model(ids(4, 3, seed=1), state=out.state)  # the state knows nothing of the padding either
    for row in (0, 1, 2):
        alone = model(torch.cat((rows[row, mask[row].bool()], ids(4, 3, seed=1)[row]))[None])
        torch.testing.assert_close(after.logits[row], alone.logits[0, -3:], rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 9))
@SAME_MODEL
def test_chunks_equal_one_pass(tiny_model: MiniMaxM1ForCausalLM, sizes: list[int], seed: int) -> None:
    with torch.inference_mode():
        text = ids(2, sum(sizes), seed)
        whole, state, parts = tiny_model(text), None, []
        for chunk in text.split(sizes, 1):
            out = tiny_model(chunk, state=state)
            state = out.state
            parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_state_is_a_value(model: MiniMaxM1ForCausalLM) -> None:
    start = model(ids(1, 40)).state
    left, right = ids(1, 5, seed=1), ids(1, 5, seed=2)
    first = model(left, state=start)
    other = model(right, state=start)  # a second branch from the same state
    again = model(left, state=start)
    assert torch.equal(first.logits, again.logits) and not torch.equal(first.logits, other.logits)
    joined = State.concat([first.state, other.state])
    both = model(torch.cat((left, right)), state=joined)
    torch.testing.assert_close(both.logits[:1], model(left, state=first.state).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.logits[1:], model(right, state=joined.row(1)).logits, rtol=1e-4, atol=1e-5)
    assert joined.nbytes == first.state.nbytes + other.state.nbytes


def test_fast_gradients_equal_the_references(model: MiniMaxM1ForCausalLM) -> None:
    model = model.double()
    grads = []
    for ops in (Ops.reference(), Ops.torch()):
        model.ops = ops
        model.zero_grad()
        state = model.empty_state(2)
        run = model.run(Batch.of([ids(1, 40)[0].tolist(), ids(1, 9)[0].tolist()], state), state, logits="all")
        assert run.logits is not None
        loss = run.logits.log_softmax(-1)[:, 3].sum() + balance_loss(run.routing)
        loss.backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) == len(list(model.parameters()))
    for name, theirs in grads[0].items():
        torch.testing.assert_close(grads[1][name], theirs, rtol=1e-7, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_flow_through_a_carried_state(tiny_model: MiniMaxM1ForCausalLM) -> None:
    model = tiny_model.double()
    text = ids(1, 30)
    grads = []
    for sizes in ([30], [13, 17]):
        model.zero_grad()
        state, loss = None, torch.zeros((), dtype=torch.float64)
        for chunk in text.split(sizes, 1):
            out = model(chunk, state=state)
            state, loss = out.state, loss + out.logits.log_softmax(-1)[..., 5].sum()
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for whole, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-7, atol=1e-7)


def test_float32_stays_where_it_must_in_bfloat16(model: MiniMaxM1ForCausalLM) -> None:
    exact = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith(".gate.weight")}
    decays = {n: b.clone() for n, b in model.named_buffers()}
    expected = model(ids(1, 30)).logits
    low = model.to(torch.bfloat16)
    out = low(ids(1, 30))
    assert out.logits.dtype == out.router_logits.dtype == torch.float32
    assert all(s.dtype == torch.float32 for s in out.state.lightning)
    for name, weight in exact.items():
        assert torch.equal(low.get_parameter(name), weight), f"{name} was rounded"
    for name, decay in decays.items():
        assert torch.equal(low.get_buffer(name), decay), f"{name} was rounded"
    assert (out.logits - expected).abs().max() < 0.15 * expected.abs().max()


def test_autocast_lowers_the_products_and_nothing_else(tiny_model: MiniMaxM1ForCausalLM) -> None:
    expected = tiny_model(ids(1, 40))
    with torch.autocast("cpu", torch.bfloat16):
        out = tiny_model(ids(1, 40))
    assert out.logits.dtype == out.router_logits.dtype == torch.float32
    assert all(s.dtype == torch.float32 for s in out.state.lightning)
    gap = (out.logits - expected.logits).abs().max()
    assert 1e-6 < gap < 0.1 * expected.logits.abs().max()
    out.logits.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in tiny_model.parameters())


@torch.inference_mode()
def test_a_threshold_changes_only_who_is_asked(tiny_model: MiniMaxM1ForCausalLM) -> None:
    state = tiny_model.empty_state()
    batch = Batch.of([ids(1, 50)[0].tolist()], state)
    full = tiny_model.run(batch, state, logits="all")
    few = tiny_model.run(batch, state, expert_threshold=0.6, logits="all")
    least = tiny_model.run(batch, state, expert_threshold=0.001, logits="all")
    used = [(r.routing.experts >= 0).sum().item() for r in (full, few, least)]
    assert used[0] == 4 * 50 * 2 and used[2] == 4 * 50 and used[2] < used[1] < used[0]
    each = tiny_model.run(batch, state, expert_threshold=torch.full((50,), 0.6), logits="all")
    torch.testing.assert_close(each.logits, few.logits)


@torch.inference_mode()
def test_only_what_the_last_token_needs_is_computed_in_the_last_layer(model: MiniMaxM1ForCausalLM) -> None:
    start = model(ids(3, 10)).state
    new = [ids(1, n)[0].tolist() for n in (12, 1, 30)]
    batch = Batch.of(new, start)
    full = model.run(batch, start, logits="all")
    last = model.run(batch, start, logits="last")
    none = model.run(batch, start, logits="none")
    routed = model.run(batch, start, logits="last", route_all=True)
    ends = [11, 12, 42]
    assert full.logits is not None and last.logits is not None and none.logits is None
    torch.testing.assert_close(last.logits, full.logits[ends], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(routed.logits, full.logits[ends], rtol=1e-4, atol=1e-5)
    assert torch.equal(routed.routing.experts, full.routing.experts)
    assert torch.equal(last.routing.experts[:-1], full.routing.experts[:-1])
    assert torch.equal(last.routing.experts[-1, ends], full.routing.experts[-1, ends])
    assert int((last.routing.experts[-1] >= 0).sum()) == 3 * model.config.num_experts_per_tok
    following = Batch.of([[5], [6], [7]], full.state)
    expected = model.run(following, full.state).logits
    for run in (last, none, routed):
        torch.testing.assert_close(model.run(following, run.state).logits, expected, rtol=1e-4, atol=1e-5)


def test_balance_loss_is_top_k_when_even() -> None:
    from minimax_m1.kernels.moe.route import route
    from minimax_m1.model.moe import Routing

    logits = 10 * torch.eye(4).repeat(6, 1) + 9 * torch.eye(4).roll(1, 1).repeat(6, 1)
    experts, weights = route(logits, 2)
    routing = Routing(experts=experts[None], weights=weights[None], logits=logits[None])
    assert balance_loss(routing).item() == pytest.approx(2.0)
    skewed = replace(routing, experts=torch.tensor([[0, 1]]).repeat(24, 1)[None], logits=logits[:1].repeat(24, 1)[None])
    assert balance_loss(skewed) > 3.9


def test_slopes() -> None:
    first = slopes(64, 0, 80)
    assert first[0].item() == pytest.approx(0.9170040 * 1.00001, rel=1e-6)
    assert first[63].item() == pytest.approx(0.00390625 * 1.00001, rel=1e-6)
    assert slopes(64, 78, 80)[0].item() == pytest.approx(0.9170040 * 0.012668, rel=1e-4)
    six = slopes(6, 0, 1) / (1 + 1e-5)
    torch.testing.assert_close(six, torch.tensor([2**-2.0, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.tensor([[64]]), "token id 64 is outside the vocabulary of 64"),
        (torch.tensor([[-1, 3]]), "token id -1"),
        (torch.tensor([1, 2]), r"\[B, T\]"),
        (torch.tensor([[0.5]]), "integer tensor"),
    ],
)
def test_bad_ids_are_refused(tiny_model: MiniMaxM1ForCausalLM, wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tiny_model(wrong)


def test_a_mask_or_state_that_does_not_fit_is_refused(tiny_model: MiniMaxM1ForCausalLM) -> None:
    with pytest.raises(RequestError, match="attention_mask"):
        tiny_model(ids(1, 5), torch.ones(1, 4))
    with pytest.raises(RequestError, match="2 rows but the state holds 1"):
        tiny_model(ids(2, 5), state=tiny_model.empty_state(1))


def test_training_reduces_the_loss(tiny_model: MiniMaxM1ForCausalLM) -> None:
    model, text = tiny_model.train(), ids(2, 24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(text).logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_it_compiles(tiny_model: MiniMaxM1ForCausalLM) -> None:
    compiled = torch.compile(tiny_model, backend="eager")
    for length in (20, 20, 33):
        torch.testing.assert_close(compiled(ids(2, length)).logits, tiny_model(ids(2, length)).logits)
    tiny_model(ids(1, 9)).logits.sum().backward()
    expected = [p.grad.clone() for p in tiny_model.parameters() if p.grad is not None]
    tiny_model.zero_grad()
    compiled(ids(1, 9)).logits.sum().backward()
    for mine, theirs in zip((p.grad for p in tiny_model.parameters()), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_largest_is_built_without_memory() -> None:
    from minimax_m1.presets import m1

    with torch.device("meta"):
        model = MiniMaxM1ForCausalLM(m1())
    assert model.device.type == "meta"
    assert sum(p.numel() for p in model.parameters()) == 456_089_655_296


def test_a_decode_step_sees_weights_that_were_replaced(tiny_model: MiniMaxM1ForCausalLM) -> None:
    model = tiny_model
    model.ops = Ops.cpu()
    layer = model.model.layers[0]

    def step() -> torch.Tensor:
        state = model.empty_state(1)
        with torch.no_grad():
            for token in (3, 4):
                run = model.run(Batch.of([[token]], state), state)
                state = run.state
        assert run.logits is not None
        return run.logits

    before = step()
    layer.self_attn.out_proj.weight = torch.nn.Parameter(torch.zeros_like(layer.self_attn.out_proj.weight))
    replaced = step()
    assert not torch.allclose(before, replaced)
    layer.post_attention_layernorm.weight.data.mul_(2)
    assert not torch.allclose(replaced, step())
