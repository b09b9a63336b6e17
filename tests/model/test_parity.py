"""Equal to the published modeling code: logits, router logits, greedy ids, decoding, from recorded numbers.

golden/parity-a holds a tiny random model and what MiniMax's own code computed for it in float32.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

PARITY = Path(__file__).parent.parent / "golden" / "parity-a"
EXPECTED = load_file(PARITY / "expected.safetensors")
TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(params=["reference", "torch"])
def model(request: pytest.FixtureRequest) -> MiniMaxM1ForCausalLM:
    ops = getattr(Ops, request.param)()
    return MiniMaxM1ForCausalLM.from_pretrained(PARITY, ops=ops, progress=False)


@torch.inference_mode()
def test_one_pass(model: MiniMaxM1ForCausalLM) -> None:
    out = model(EXPECTED["input_ids"])
    torch.testing.assert_close(out.logits, EXPECTED["logits"], **TOLERANCE)
    torch.testing.assert_close(out.router_logits, EXPECTED["router_logits"], **TOLERANCE)


@pytest.mark.parametrize("sizes", [[1, 7, 100, 63, 1, 128], [299, 1], [64, 64, 64, 64, 44]])
@torch.inference_mode()
def test_uneven_chunks_through_the_state(model: MiniMaxM1ForCausalLM, sizes: list[int]) -> None:
    state, parts = None, []
    for chunk in EXPECTED["input_ids"].split(sizes, 1):
        out = model(chunk, state=state)
        state = out.state
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), EXPECTED["logits"], **TOLERANCE)


def test_greedy_ids(model: MiniMaxM1ForCausalLM) -> None:
    out = model.generate(EXPECTED["input_ids"], max_new_tokens=12)
    assert torch.equal(out[:, :300], EXPECTED["input_ids"])
    assert torch.equal(out[:, 300:], EXPECTED["greedy_ids"])


@torch.inference_mode()
def test_decoding_token_by_token(model: MiniMaxM1ForCausalLM) -> None:
    state = model(EXPECTED["input_ids"]).state
    for step, ids in enumerate(EXPECTED["greedy_ids"].T):
        out = model(ids[:, None], state=state)
        state = out.state
        torch.testing.assert_close(out.logits[:, 0], EXPECTED["decode_logits"][:, step], **TOLERANCE)
