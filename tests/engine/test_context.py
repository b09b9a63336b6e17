"""Contexts on disk: what was saved comes back bit for bit, whatever was killed, cut, altered or mixed up."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from minimax_m1.engine import durable, manifest
from minimax_m1.engine.context import Context, branch, contexts, delete
from minimax_m1.engine.context_writer import ContextWriter
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import CheckpointError

IDS = np.random.default_rng(0).integers(0, 500, 100).astype(np.int32)
CUTS = (0, 40, 41, 100)
KINDS = {  # softmax layers, lightning layers, dtype
    "both": (1, 3, torch.float32),
    "bfloat16": (2, 2, torch.bfloat16),
    "float64": (1, 1, torch.float64),
    "softmax alone": (2, 0, torch.float32),
    "lightning alone": (0, 2, torch.float32),
}


class Memory:
    """Stands for a sequence: knows its state and its keys and values at any length."""

    def __init__(self, kind: str = "both", tokens: int = 100) -> None:
        softmax, lightning, dtype = KINDS[kind]
        generator = torch.Generator().manual_seed(7)
        self.keys_values = [torch.randn(2, tokens, 2, 8, generator=generator).to(dtype) for _ in range(softmax)]
        self.states = [torch.randn(tokens + 1, 4, 8, 8, generator=generator) for _ in range(lightning)]

    def snapshot(self, start: int, stop: int) -> Snapshot:
        return Snapshot(
            start=start,
            stop=stop,
            lightning=tuple(layer[stop] for layer in self.states),
            keys_values=tuple(layer[:, start:stop] for layer in self.keys_values),
        )


def writer(folder: Path, ids: Any = IDS, **changes: Any) -> ContextWriter:
    fixed: dict[str, Any] = {"fingerprint": "f" * 64, "dtype": "float32", "vocab_size": 512, "created": 5.0}
    return ContextWriter(folder, ids, **{**fixed, "meta": {"kind": "text"}, **changes})


def fill(folder: Path, memory: Memory, cuts: Sequence[int] = CUTS, ids: Any = IDS) -> None:
    with writer(folder, ids) as open_writer:
        start = open_writer.manifest.tokens
        for stop in [cut for cut in cuts if cut > start]:
            open_writer.save(memory.snapshot(start, stop))
            start = stop


def loaded(context: Context) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """The state, each softmax layer's keys and values in one piece, and where the pieces began."""
    stretches: list[list[Tensor]] = []
    starts: list[int] = []

    def put(start: int, keys_values: Sequence[Tensor]) -> None:
        starts.append(start)
        stretches.append([tensor.clone() for tensor in keys_values])

    state = [tensor.clone() for tensor in context.load(put)]
    return state, [torch.cat(layer, dim=1) for layer in zip(*stretches, strict=True)], starts


def holds(context: Context, memory: Memory, tokens: int) -> bool:
    """Whether the context is exactly what `memory` knows of so many tokens."""
    state, keys_values, _ = loaded(context)
    return (
        context.ids.dtype == np.int32
        and context.ids.tolist() == IDS[:tokens].tolist()
        and all(torch.equal(a, b[tokens]) for a, b in zip(state, memory.states, strict=True))
        and all(torch.equal(a, b[:, :tokens]) for a, b in zip(keys_values, memory.keys_values, strict=True))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    memory = Memory(kind)
    fill(tmp_path / "book", memory)
    context = Context.open(tmp_path / "book", fingerprint="f" * 64, dtype="float32")
    assert holds(context, memory, 100)
    assert context.manifest.complete and context.manifest.meta == {"kind": "text"}
    assert [part.tokens for part in context.manifest.parts] == [40, 1, 59]
    if memory.keys_values:
        assert loaded(context)[2] == [0, 40, 41]
    context.verify()


def test_the_files_are_safetensors_that_any_library_reads(tmp_path: Path) -> None:
    memory = Memory("bfloat16")
    fill(tmp_path, memory)
    with safe_open(tmp_path / "part-00002.safetensors", "pt") as part:
        assert torch.equal(part.get_tensor("keys_values.1"), memory.keys_values[1][:, 41:])
        assert part.get_tensor("ids").tolist() == IDS[41:].tolist()
    with safe_open(tmp_path / "state-100.safetensors", "pt") as state:
        assert torch.equal(state.get_tensor("state.0"), memory.states[0][100])
    assert sorted(os.listdir(tmp_path)) == [
        "lock", "manifest.json", *(f"part-0000{n}.safetensors" for n in range(3)), "state-100.safetensors"
    ]  # fmt: skip


def test_writing_to_what_was_loaded_changes_no_file(tmp_path: Path) -> None:
    memory = Memory()
    fill(tmp_path, memory)
    context = Context.open(tmp_path)
    for tensor in context.load(lambda start, keys_values: [tensor.zero_() for tensor in keys_values] and None):
        tensor.zero_()
    assert holds(Context.open(tmp_path), memory, 100)


def test_a_writer_goes_on_where_the_one_before_stopped(tmp_path: Path) -> None:
    memory = Memory()
    fill(tmp_path, memory, (0, 40))
    half = Context.open(tmp_path)
    assert not half.manifest.complete and half.manifest.total == 100 and holds(half, memory, 40)
    with writer(tmp_path, created=9.0) as again:
        assert again.past is not None and again.past.ids.tolist() == IDS[:40].tolist()
        again.save(memory.snapshot(40, 100))
        assert holds(half, memory, 40), "a context that is open stays readable while its folder is written to"
    whole = Context.open(tmp_path)
    assert whole.manifest.complete and whole.manifest.created == 5.0 and holds(whole, memory, 100)


def test_a_complete_context_is_extended(tmp_path: Path) -> None:
    memory = Memory()
    fill(tmp_path, memory, (0, 60), ids=IDS[:60])
    assert Context.open(tmp_path).manifest.complete
    with writer(tmp_path, meta={"kind": "longer"}) as more:
        assert not Context.open(tmp_path).manifest.complete
        more.save(memory.snapshot(60, 100))
    context = Context.open(tmp_path)
    assert context.manifest.complete and context.manifest.meta == {"kind": "longer"} and holds(context, memory, 100)


def test_other_ids_are_refused_with_the_place(tmp_path: Path) -> None:
    fill(tmp_path, Memory(), (0, 40))
    other = IDS.copy()
    other[17] += 1
    with pytest.raises(CheckpointError, match=f"holds another text: token 17 is {IDS[17]} there and {other[17]} in"):
        writer(tmp_path, other)
    with pytest.raises(CheckpointError, match="holds 40 tokens already, and what was given has only 30"):
        writer(tmp_path, IDS[:30])
    assert Context.open(tmp_path).manifest.total == 100


def test_another_model_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, Memory())
    for changes, says in (
        (
            {"fingerprint": "e" * 64},
            "manifest.json belongs to another model: its fingerprint is ffffffffffff, this mod",
        ),
        ({"dtype": "bfloat16"}, "manifest.json was written in float32; this model runs in bfloat16"),
    ):
        with pytest.raises(CheckpointError, match=says):
            Context.open(tmp_path, **changes)
        with pytest.raises(CheckpointError, match=says):
            writer(tmp_path, **changes)


def test_two_writers_at_once_are_one_too_many(tmp_path: Path) -> None:
    with writer(tmp_path):
        with pytest.raises(CheckpointError, match="is being written by another process"):
            writer(tmp_path)
        with pytest.raises(CheckpointError, match="is being written by another process"):
            delete(tmp_path)
    with writer(tmp_path):
        pass


def test_a_writer_that_refuses_lets_go_of_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, Memory())
    with pytest.raises(CheckpointError):
        writer(tmp_path, IDS[::-1])
    with durable.locked(tmp_path):
        pass


def test_folders_that_are_no_contexts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no context at .*: there is no manifest\.json"):
        Context.open(tmp_path / "none")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match=r"holds 'letter\.txt' and no context"):
        writer(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; a context is a folder"):
        writer(tmp_path / "letter.txt")
    with pytest.raises(CheckpointError, match=r"letter\.txt: there is no manifest"):
        Context.open(tmp_path / "letter.txt")
    with pytest.raises(CheckpointError, match="no context at"):
        delete(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_a_context_without_tokens_yet_says_so(tmp_path: Path) -> None:
    with writer(tmp_path) as begun:
        assert begun.past is None
    with pytest.raises(CheckpointError, match="holds none of its 100 tokens yet"):
        Context.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["manifest.json", "part-00000.safetensors", "part-00002.safetensors", "state-100.safetensors"]
)
@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "removed", "another's"])
def test_a_file_that_is_not_as_written_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    fill(tmp_path / "a", Memory())
    fill(tmp_path / "b", Memory("bfloat16"))
    path = tmp_path / "a" / name
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "another's":
        shutil.copy(tmp_path / "b" / name, path)
        if name == "manifest.json":  # a whole manifest; it is the files that do not fit it
            name = "safetensors"
    else:
        path.write_bytes({"cut": whole[:-2], "empty": b"", "longer": whole + b"\0"}[damage])
    if damage == "longer" and name == "manifest.json":
        path.write_bytes(whole + b"{")  # white space after the JSON would be none of our business
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Context.open(tmp_path / "a").verify()


@pytest.mark.parametrize(
    "name", ["manifest.json", "part-00000.safetensors", "part-00002.safetensors", "state-100.safetensors"]
)
def test_one_altered_bit_anywhere_is_seen(tmp_path: Path, name: str) -> None:
    memory = Memory()
    fill(tmp_path, memory)
    path = tmp_path / name
    whole, record = path.read_bytes(), manifest.read(tmp_path)
    for place in {*range(0, len(whole), 97), len(whole) - 2}:
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        try:
            context = Context.open(tmp_path)
            context.verify()
        except CheckpointError as error:
            assert name in str(error) or name == "manifest.json"
        else:
            assert name == "manifest.json" and context.manifest == record, "only white space may change unseen"
    path.write_bytes(whole)
    assert holds(Context.open(tmp_path), memory, 100)


@pytest.mark.parametrize(("group", "handed_on"), [(1, [0]), (2, []), (16, [])])
def test_values_are_not_handed_on_before_they_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, handed_on: list[int]
) -> None:
    monkeypatch.setattr("minimax_m1.engine.context._GROUP", group)
    fill(tmp_path, Memory())
    path = tmp_path / "part-00001.safetensors"
    altered = bytearray(path.read_bytes())
    altered[200] ^= 1
    path.write_bytes(altered)
    seen: list[int] = []
    with pytest.raises(CheckpointError, match="part-00001"):
        Context.open(tmp_path).load(lambda start, keys_values: seen.append(start))
    assert seen == handed_on


def test_a_manifest_of_another_version_or_none_at_all(tmp_path: Path) -> None:
    fill(tmp_path, Memory())
    path = tmp_path / "manifest.json"
    text = path.read_text()
    for bad, says in (
        (text.replace('"version": 1', '"version": 2'), "has version 2; this program reads version 1"),
        ("[]", "no manifest of a context"),
        ("{}", "no manifest of a context"),
        ("\x00", "no manifest of a context"),
    ):
        path.write_text(bad)
        with pytest.raises(CheckpointError, match=f"manifest.json.*{says}"):
            Context.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 99},
        {"total": 3},
        {"meta": []},
        {"parts": 1},
        {"more": 1},
        {"softmax": [{"shape": [2, 8], "dtype": "x"}]},
    ],
)
def test_a_sealed_manifest_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    import json

    fill(tmp_path, Memory())
    path = tmp_path / "manifest.json"
    keys = json.loads(path.read_text()) | change
    del keys["version"], keys["sha256"]
    path.write_text(json.dumps({"version": 1, "sha256": manifest._seal(keys), **keys}))
    with pytest.raises(CheckpointError, match=r"manifest\.json does not describe a context"):
        Context.open(tmp_path)


class _PulledPlug(Exception):
    """Stands for the moment at which a process dies."""


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every operation on files counts down the list's one number and raises at zero; nothing happens below it."""
    left = [10**9]

    def faulty(function: Any) -> Any:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _PulledPlug
            return function(*arguments, **keywords)

        return operation

    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nobody pulls a real plug here
    for name in ("replace", "fsync", "open", "link"):
        monkeypatch.setattr(os, name, faulty(getattr(os, name)))
    for name in ("open", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, faulty(getattr(Path, name)))
    yield left
    left[0] = 10**9


def test_a_death_between_any_two_operations_leaves_the_last_save_whole(tmp_path: Path, plug: list[int]) -> None:
    memory = Memory()
    for operations in range(200):
        folder = tmp_path / str(operations)
        plug[0] = operations
        saved = 0
        try:
            with writer(folder) as dying:
                for start, stop in ((0, 40), (40, 41), (41, 100)):
                    dying.save(memory.snapshot(start, stop))
                    saved = stop
        except _PulledPlug:
            died = True
        else:
            died = False
        plug[0] = 10**9
        try:
            found = Context.open(folder)
        except CheckpointError:
            assert saved == 0
        else:
            assert found.manifest.tokens >= saved and holds(found, memory, found.manifest.tokens)
        fill(folder, memory)
        assert holds(Context.open(folder), memory, 100)
        names = set(os.listdir(folder)) - {"lock", "manifest.json", *Context.open(folder).manifest.files}
        assert not names, "nothing of the dead writer is left"
        if not died:
            assert operations > 20
            return
    pytest.fail("the writer never got through")


def test_a_half_written_file_is_never_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    fill(tmp_path, memory, (0, 40))

    def half(*_: object) -> Iterator[bytes]:
        yield b"half a file"
        raise _PulledPlug

    with monkeypatch.context() as patch, writer(tmp_path) as dying:
        patch.setattr("minimax_m1.engine.tensor_file.pieces", half)
        with pytest.raises(_PulledPlug):
            dying.save(memory.snapshot(40, 100))
    assert (tmp_path / "part-00001.safetensors.new").read_bytes() == b"half a file"
    assert holds(Context.open(tmp_path), memory, 40)
    fill(tmp_path, memory)
    assert holds(Context.open(tmp_path), memory, 100) and not (tmp_path / "part-00001.safetensors.new").exists()


def test_a_branch_lives_on_its_own(tmp_path: Path) -> None:
    memory = Memory()
    fill(tmp_path / "a", memory, (0, 40, 60), ids=IDS[:60])
    branch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "part-00000.safetensors").stat()[stat.ST_NLINK] == 2
    fill(tmp_path / "b", memory)
    assert holds(Context.open(tmp_path / "a"), memory, 60)
    delete(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert holds(Context.open(tmp_path / "b"), memory, 100)
    with pytest.raises(CheckpointError, match="is a context already"):
        branch(tmp_path / "b", tmp_path / "b")
    with pytest.raises(CheckpointError, match="no context at"):
        branch(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_branch_is_a_copy_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    fill(tmp_path / "a", Memory())
    branch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "part-00000.safetensors").stat()[stat.ST_NLINK] == 1
    assert holds(Context.open(tmp_path / "b"), Memory(), 100)


def test_a_branch_of_a_damaged_context_names_the_file(tmp_path: Path) -> None:
    fill(tmp_path / "a", Memory())
    (tmp_path / "a" / "part-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"a/part-00001\.safetensors is missing"):
        branch(tmp_path / "a", tmp_path / "b")
    assert list(contexts(tmp_path)) == [(tmp_path / "a", manifest.read(tmp_path / "a"))]


def test_a_branch_that_died_can_be_made_again(tmp_path: Path, plug: list[int]) -> None:
    memory = Memory()
    fill(tmp_path / "a", memory)
    for operations in range(100):
        plug[0] = operations
        try:
            branch(tmp_path / "a", tmp_path / str(operations))
        except _PulledPlug:
            plug[0] = 10**9
            if not (tmp_path / str(operations) / "manifest.json").exists():
                branch(tmp_path / "a", tmp_path / str(operations))
            assert holds(Context.open(tmp_path / str(operations)), memory, 100)
        else:
            return
    pytest.fail("the branch never got through")


def test_a_deletion_that_died_can_be_finished(tmp_path: Path, plug: list[int]) -> None:
    for operations in range(100):
        folder = tmp_path / str(operations)
        fill(folder, Memory())
        plug[0] = operations
        try:
            delete(folder)
        except _PulledPlug:
            plug[0] = 10**9
            if list(folder.iterdir()):
                delete(folder)
                assert not folder.exists()
        else:
            plug[0] = 10**9
            assert not folder.exists()
            return
    pytest.fail("the deletion never got through")


def test_contexts_are_listed_by_name_and_damaged_ones_say_why(tmp_path: Path) -> None:
    assert list(contexts(tmp_path / "none")) == []
    for name in ("b", "a", "c"):
        fill(tmp_path / name, Memory())
    (tmp_path / "b" / "manifest.json").write_text("{")
    (tmp_path / "no context").mkdir()
    found = dict(contexts(tmp_path))
    assert [path.name for path in found] == ["a", "b", "c"]
    assert isinstance(found[tmp_path / "b"], CheckpointError)
    assert found[tmp_path / "a"] == manifest.read(tmp_path / "a")


def test_a_deletion_leaves_what_is_not_ours(tmp_path: Path) -> None:
    fill(tmp_path / "a", Memory())
    (tmp_path / "a" / "notes.txt").write_text("mine")
    delete(tmp_path / "a")
    assert os.listdir(tmp_path / "a") == ["notes.txt"]


def test_nothing_is_named_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(handle: int) -> None:
        log.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def logged_replace(source: Path, target: Path) -> None:
        log.append(f"place {target.name}")
        replace(source, target)

    folder = tmp_path / "book"
    with writer(folder, IDS[:40]) as saving:
        monkeypatch.setattr(os, "fsync", logged_fsync)
        monkeypatch.setattr(os, "replace", logged_replace)
        saving.save(Memory().snapshot(0, 40))
    assert log == [
        step
        for name in ("part-00000.safetensors", "state-40.safetensors", "manifest.json")
        for step in (f"sync {name}.new", f"place {name}", "sync book")
    ]


def test_a_lock_on_a_folder_that_was_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock = fcntl.flock

    def late(*arguments: Any) -> None:  # another process deletes the context between our opening and locking the file
        (tmp_path / "lock").unlink()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(CheckpointError, match="is being written by another process"), durable.locked(tmp_path):
        pass


def test_altered_ids_and_foreign_layouts_are_seen_on_opening(tmp_path: Path) -> None:
    fill(tmp_path, Memory())
    path = tmp_path / "part-00002.safetensors"
    whole = path.read_bytes()
    for place, says in ((-3, "its ids are not those in the manifest"), (40, "does not hold the tensors that its")):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=rf"part-00002\.safetensors .*{says}"):
            Context.open(tmp_path)


def test_a_reader_and_a_branch_look_again_where_a_writer_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    folder = tmp_path / "a"
    fill(folder, memory, (0, 40))
    old = manifest.read(folder)
    fill(folder, memory)
    assert not (folder / "state-40.safetensors").exists()
    now = manifest.read(folder)
    for look in (lambda: Context.open(folder), lambda: branch(folder, tmp_path / "b")):
        answers = [old]
        monkeypatch.setattr(manifest, "read", lambda _, answers=answers: answers.pop() if answers else now)
        look()
    monkeypatch.undo()
    assert holds(Context.open(tmp_path / "b"), memory, 100)


def test_a_branch_takes_no_leftovers_along(tmp_path: Path) -> None:
    fill(tmp_path / "a", Memory())
    (tmp_path / "b").mkdir()
    for name in ("part-00001.safetensors", "part-00009.safetensors", "state-7.safetensors.new"):
        (tmp_path / "b" / name).write_text("left by a branch that died")
    branch(tmp_path / "a", tmp_path / "b")
    assert sorted(os.listdir(tmp_path / "b")) == sorted(os.listdir(tmp_path / "a"))
    assert holds(Context.open(tmp_path / "b"), Memory(), 100)
