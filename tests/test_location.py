"""Names become folders: the embedded model, a folder, a hub id in the cache; the rest is one clear sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minimax_m1.errors import ModelNotFound
from minimax_m1.location import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_a_fresh_process(name: str, cache: Path, **environment: str) -> str:
    """What `locate` says with the given hub cache; the hub client reads its settings only when it is imported."""
    script = (
        "import sys; from minimax_m1.location import locate; from minimax_m1.errors import ModelNotFound\n"
        "try: print(locate(sys.argv[1]))\n"
        "except ModelNotFound as error: print('ModelNotFound:', error)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **environment}
    run = subprocess.run([sys.executable, "-c", script, name], env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def cached(cache: Path, repository: str) -> Path:
    """A hub cache that holds `repository`, as the hub client lays it out."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
    assert locate(str(tmp_path)) == tmp_path


def test_nano_is_the_packaged_folder_even_beside_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("./nano") == Path("nano")
    assert (locate("nano") / "config.json").is_file()


@pytest.mark.parametrize("name", ["nope", "/no/such/folder", "", "a/b/c", "x" * 5000, "a\0b", "~nobody-here/x"])
def test_a_name_that_leads_nowhere_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match='give "nano", a folder, or a hub id') as caught:
        locate(name)
    assert len(str(caught.value)) < 400


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelNotFound):
        locate(file)


@pytest.mark.parametrize("spelling", ["MiniMaxAI/MiniMax-M1-40k", "MiniMax-AI/MiniMax-M1-40k"])
def test_a_cached_hub_id_is_found_under_both_spellings_of_its_owner(spelling: str, tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "MiniMaxAI/MiniMax-M1-40k")
    assert in_a_fresh_process(spelling, tmp_path) == str(snapshot)


def test_an_absent_hub_id_offline_is_one_sentence(tmp_path: Path) -> None:
    said = in_a_fresh_process("MiniMax-AI/MiniMax-M1-80k", tmp_path)
    assert said == (
        "ModelNotFound: no folder 'MiniMax-AI/MiniMax-M1-80k', and hub model 'MiniMaxAI/MiniMax-M1-80k' is not in "
        "the local Hugging Face cache, and HF_HUB_OFFLINE forbids fetching it"
    )


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path) -> None:
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    said = in_a_fresh_process("someone/something", tmp_path, **dead)
    assert said.startswith("ModelNotFound: no folder 'someone/something'") and "could not be fetched" in said
    assert "\n" not in said


def test_a_malformed_hub_id_is_one_sentence(tmp_path: Path) -> None:
    said = in_a_fresh_process("a--b/c", tmp_path)
    assert said.startswith("ModelNotFound: 'a--b/c' is neither a folder nor a hub id")


@pytest.mark.parametrize("weights", [True, False])
def test_weights_are_fetched_only_where_wanted(weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot_download(hub_id: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert locate("MiniMaxAI/MiniMax-M1-40k", weights=weights) == tmp_path
    assert "*.json" in asked and ("*.safetensors" in asked) == weights
