"""Inspection: the 456B model's published figures, and what it says of good, wrong and broken folders."""

from __future__ import annotations

import gzip
import json
import resource
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minimax_m1.errors import CheckpointError, ConfigError, ModelNotFound
from minimax_m1.model.inspect import MILLION, Report, inspect_model, render
from minimax_m1.model.names import published_tensors
from minimax_m1.presets import m1, tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "minimax-m1-tensor-names.txt.gz"


@pytest.fixture(scope="module")
def m1_report() -> Report:
    return inspect_model("minimax-m1")


def tensors(dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype) for name, shape in published_tensors(tiny()).items()}


def folder_of(path: Path, weights: dict[str, np.ndarray]) -> Path:
    (path / "config.json").write_text(json.dumps(tiny().to_dict()))
    save_file(weights, path / "model.safetensors")
    return path


def test_m1_has_the_tensor_names_of_the_official_index() -> None:
    official = gzip.decompress(GOLDEN.read_bytes()).decode().split()
    assert len(official) == 8243
    assert sorted(published_tensors(m1())) == official


def test_m1_has_the_published_sizes(m1_report: Report) -> None:
    assert m1_report.tensors == 8243 and m1_report.official_names
    assert m1_report.parameters == m1_report.built_parameters == 456_089_655_296
    assert m1_report.active == 45_944_920_064
    assert m1_report.active_with_head == 47_174_113_280
    assert m1_report.active_with_head_and_embedding == 48_403_306_496
    assert m1_report.weight_bytes["bf16"] == 912_210_767_872  # total_size in the published index
    scales = 4 * 80 * 32 * (2 * 9216 + 6144)  # one a row of every expert
    assert m1_report.weight_bytes["experts int8, rest bf16"] == 912_210_767_872 - 434_865_438_720 + scales
    mixers = 70 * (251_666_432 - 8192) + 10 * 113_246_208  # less the norms inside lightning attention
    scales += 4 * (70 * (4 * 8192 + 6144) + 10 * (8192 + 2 * 1024 + 6144))
    assert m1_report.weight_bytes["int8"] == 912_210_767_872 - 434_865_438_720 - mixers + scales


def test_m1_remembers_280_mib_and_40_kib_a_token(m1_report: Report) -> None:
    assert m1_report.lightning_state_bytes == 280 * 2**20
    assert m1_report.kv_bytes_per_token == {"bf16": 40_960, "int8": 20_480}
    assert m1_report.kv_bytes_at_1m == {"bf16": 40 * 2**30, "int8": 20 * 2**30}


def test_flops_grow_with_context_in_softmax_layers_only(m1_report: Report) -> None:
    flops = m1_report.flops_per_token
    assert list(flops) == [8192, 32768, 65536, 131072, 262144, 524288, MILLION]
    assert (flops[MILLION] - flops[8192]) == 10 * 4 * 64 * 128 * (MILLION - 8192)
    assert flops[8192] == 2 * 47_174_113_280 + 10 * 4 * 64 * 128 * 8192 + 70 * 5 * 64 * 128 * 128


def test_m1_is_built_without_its_memory(m1_report: Report) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak < 8 * 2**30 < m1_report.weight_bytes["int8"]


def test_a_good_folder(tmp_path: Path) -> None:
    report = inspect_model(folder_of(tmp_path, tensors()))
    assert report.files is not None
    assert report.files.shards == 1 and report.files.dtypes == {"F32": report.tensors}
    assert not (report.files.missing or report.files.unexpected or report.files.misshapen)
    assert not report.official_names
    assert "every name and shape as published" in render(report)


def test_a_wrong_folder_is_told_by_name(tmp_path: Path) -> None:
    weights = tensors()
    del weights["model.norm.weight"]
    weights["model.extra.weight"] = np.zeros(1)
    weights["lm_head.weight"] = np.zeros((2, 3), np.float32)
    report = inspect_model(str(folder_of(tmp_path, weights)))
    assert report.files is not None
    assert report.files.missing == ("model.norm.weight",)
    assert report.files.unexpected == ("model.extra.weight",)
    assert report.files.misshapen == ("lm_head.weight: has (2, 3), needs (64, 32)",)
    assert all(name in render(report) for name in ("model.norm.weight", "model.extra.weight", "(2, 3)"))


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    weights = tensors()
    half = len(weights) // 2
    weight_map: dict[str, str] = {}
    (tmp_path / "config.json").write_text(json.dumps(tiny().to_dict()))
    for shard, names in (("a.safetensors", list(weights)[:half]), ("b.safetensors", list(weights)[half:])):
        save_file({name: weights[name] for name in names}, tmp_path / shard)
        weight_map |= dict.fromkeys(names, shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    files = inspect_model(tmp_path).files
    assert files is not None and files.shards == 2 and not (files.missing or files.unexpected)
    (tmp_path / "b.safetensors").unlink()
    files = inspect_model(tmp_path).files
    assert files is not None and len(files.missing) == len(weights) - half
    (tmp_path / "a.safetensors").unlink()
    files = inspect_model(tmp_path).files  # as after fetching a hub model without its weights
    assert files is not None and files.shards == 0 and not files.missing


def test_a_cut_file_is_one_sentence(tmp_path: Path) -> None:
    folder_of(tmp_path, tensors())
    whole = (tmp_path / "model.safetensors").read_bytes()
    for cut in (0, 5, 400, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is cut or damaged"):
            inspect_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny().to_dict()))
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not a safetensors index"):
        inspect_model(tmp_path)


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        inspect_model("minimax-m2")
    with pytest.raises(ConfigError, match="no configuration at"):
        inspect_model(tmp_path)


def test_a_tied_model_counts_its_table_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny().replace(tie_word_embeddings=True).to_dict()))
    tied, untied = inspect_model(tmp_path), inspect_model("tiny")
    assert untied.parameters - tied.parameters == 64 * 32
    assert tied.active == untied.active and tied.flops_per_token == untied.flops_per_token
    assert tied.built_parameters == tied.parameters


def test_the_report_is_plain_json(m1_report: Report) -> None:
    told = json.loads(json.dumps(m1_report.to_dict()))
    assert told["parameters"] == 456_089_655_296
    assert told["flops_per_token"]["1048576"] == m1_report.flops_per_token[MILLION]


def test_the_text_names_its_convention(m1_report: Report) -> None:
    text = render(m1_report)
    assert "456,089,655,296" in text and "a multiply-add is 2" in text and "912.2 GB" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_shared_expert_may_be_as_wide_as_the_published_code_builds_it(tmp_path: Path) -> None:
    config = tiny().replace(shared_intermediate_size=16)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    built = config.replace(shared_intermediate_size=config.intermediate_size)
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in published_tensors(built).items()},
        tmp_path / "model.safetensors",
    )
    files = inspect_model(tmp_path).files
    assert files is not None and not (files.missing or files.unexpected or files.misshapen)
