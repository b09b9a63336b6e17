"""A model as a folder of its own: the same words, the same answers, the settings that its name told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minimax_m1.engine.defaults import defaults
from minimax_m1.errors import RequestError
from minimax_m1.export.folder import export_folder
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

IDS = torch.arange(30)[None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A random model with nano's tokenizer, named for how long it thinks."""
    torch.manual_seed(0)
    folder = tmp_path / "Some-40k"
    MiniMaxM1ForCausalLM(tiny().replace(vocab_size=520)).save_pretrained(folder)
    MiniMaxM1Tokenizer.from_pretrained("nano").save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.5, "top_p": 0.9}))
    return folder


def load(folder: Path, **options: str) -> MiniMaxM1ForCausalLM:
    return MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("auto", "int8"), ("bfloat16", "int8"), ("bfloat16", None), ("auto", None)]
)
def test_the_folder_answers_as_the_model_loaded_so(
    source: Path, tmp_path: Path, dtype: str, quantization: str | None
) -> None:
    out = tmp_path / "made" / "here"
    done = export_folder(source, out, dtype=dtype, quantization=quantization, progress=False)
    expected = load(source, dtype=dtype, quantization=quantization)  # type: ignore[arg-type]
    made = load(out)
    assert made.config == expected.config and made.dtype == expected.dtype
    assert torch.equal(made(IDS).logits, expected(IDS).logits)
    assert done.folder == out and done.quantization == quantization
    assert done.dtype == ("bfloat16" if dtype == "bfloat16" else "float32")
    assert done.tensors == len(expected.state_dict()) and done.bytes == (out / "model.safetensors").stat().st_size


def test_words_template_and_settings_come_along(source: Path, tmp_path: Path) -> None:
    export_folder(source, tmp_path / "out", quantization="int8", progress=False)
    ours, theirs = (MiniMaxM1Tokenizer.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    talk = [{"role": "user", "content": "Add 12 and 30, zorvin!"}]
    assert theirs.apply_chat_template(talk, add_generation_prompt=True) == ours.apply_chat_template(
        talk, add_generation_prompt=True
    )
    settings = defaults(tmp_path / "out", 1000)
    assert settings == defaults(source, 1000) and settings.temperature == 0.5
    assert settings.thinking_budget == 40_960  # the name that told it is gone


def test_a_model_is_never_overwritten_and_a_cut_export_goes_on(source: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in source.iterdir()}
    with pytest.raises(RequestError, match="holds a model already"):
        export_folder(source, source, quantization="int8", progress=False)
    assert {file: file.read_bytes() for file in source.iterdir()} == before
    with pytest.raises(RequestError, match="is a file"):
        export_folder(source, source / "config.json", progress=False)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "model.safetensors.tmp").write_bytes(b"half of it")
    export_folder(source, cut, quantization="int8", progress=False)
    assert load(cut).config.quantization == "int8" and not (cut / "model.safetensors.tmp").exists()
