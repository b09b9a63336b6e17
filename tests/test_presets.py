"""The named sizes are what they say they are."""

from __future__ import annotations

import pytest

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.model.names import published_tensors
from minimax_m1.presets import PRESETS, m1, nano, text01, tiny


def test_the_names() -> None:
    assert list(PRESETS) == ["minimax-m1", "minimax-text-01", "nano", "tiny"]
    with pytest.raises(TypeError):
        PRESETS["mine"] = nano  # type: ignore[index]


def test_m1_and_text01_share_one_shape() -> None:
    assert m1() == text01() == MiniMaxM1Config()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_deepnorm_alpha_and_a_softmax_layer_last(preset: type) -> None:
    config = preset()
    alpha = (2 * config.num_hidden_layers) ** 0.25
    assert config.layernorm_full_attention_alpha == pytest.approx(alpha)
    assert config.layernorm_linear_attention_alpha == pytest.approx(alpha)
    assert config.layernorm_mlp_alpha == pytest.approx(alpha)
    assert config.softmax_layers[-1] == config.num_hidden_layers - 1
    assert 2 * config.rotary_dim == config.head_dim


def test_nano_reads_a_million_tokens_and_fits_a_package() -> None:
    config = nano()
    assert config.max_position_embeddings == 1_048_576
    assert config.softmax_layers == (7,)
    parameters = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in published_tensors(config).values())
    assert parameters < 6_000_000


def test_tiny_has_both_kinds_of_layer() -> None:
    assert tiny().lightning_layers == (0, 1, 2)
    assert tiny().softmax_layers == (3,)
