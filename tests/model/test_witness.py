"""A second witness: transformers' `MiniMaxForCausalLM`, where its known faults do not matter.

It turns the whole head (so rotary_dim = head_dim here) and is compared in float32, in one pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own deprecations are not ours


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    config = transformers.MiniMaxConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        full_attn_alpha_factor=1.7,
        full_attn_beta_factor=0.8,
        linear_attn_alpha_factor=1.9,
        linear_attn_beta_factor=1.1,
        mlp_alpha_factor=2.1,
        mlp_beta_factor=0.9,
        max_position_embeddings=1024,
    )
    torch.manual_seed(0)
    witness = transformers.MiniMaxForCausalLM(config).eval()
    for parameter in witness.parameters():  # its own start is too small to tell anything apart
        parameter.data.normal_(std=0.2) if parameter.dim() > 1 else parameter.data.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("witness")
    witness.save_pretrained(folder)
    return folder, witness


@torch.inference_mode()
def test_logits_agree_through_a_checkpoint(saved: tuple[Path, torch.nn.Module]) -> None:
    folder, witness = saved
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
    assert model.config.rotary_dim == model.config.head_dim == 16
    ids = torch.randint(0, 96, (2, 300), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids).logits, witness(ids).logits, rtol=1e-3, atol=2e-4)


@torch.inference_mode()
def test_left_padded_rows_agree(saved: tuple[Path, torch.nn.Module]) -> None:
    folder, witness = saved
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :13] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = witness(ids, attention_mask=mask, position_ids=positions).logits
    ours = model(ids, mask).logits
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-3, atol=2e-4)


@torch.inference_mode()
def test_greedy_generation_agrees(saved: tuple[Path, torch.nn.Module]) -> None:
    """Its own decoding takes wrong positions where layer 0 is linear, so it reads the whole text for each id."""
    folder, witness = saved
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
    ids = torch.randint(0, 96, (1, 20), generator=torch.Generator().manual_seed(3))
    theirs = ids
    for _ in range(16):
        theirs = torch.cat((theirs, witness(theirs).logits[:, -1:].argmax(-1)), 1)
    assert torch.equal(model.generate(ids, max_new_tokens=16), theirs)


@torch.inference_mode()
def test_transformers_reads_what_we_save(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    folder, witness = saved
    MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = transformers.MiniMaxForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(30)[None]
    torch.testing.assert_close(again(ids).logits, witness(ids).logits)


def test_its_configuration_is_read(saved: tuple[Path, torch.nn.Module]) -> None:
    config = MiniMaxM1Config.from_file(saved[0] / "config.json")
    assert config.attn_type_list == (0, 0, 1, 0)
    assert (config.layernorm_full_attention_alpha, config.layernorm_mlp_beta) == (1.7, 0.9)
