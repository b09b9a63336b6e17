"""`Manifest`: what a context on disk holds, file by file; the one file of its folder that is ever replaced.

In: a folder, or a manifest to put there. Out: the manifest, or a CheckpointError that names the file. The file
carries its own sha256, so that an altered manifest is seen like any other altered file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minimax_m1.engine import durable
from minimax_m1.engine.tensor_file import TensorSpec, known_dtype
from minimax_m1.errors import CheckpointError

NAME = "manifest.json"
OWN = re.compile(r"(?:manifest\.json|part-\d{5}\.safetensors|state-\d+\.safetensors)(?:\.new)?|lock")  # all we write
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file with the ids, keys and values of a stretch of tokens; `ids_sha256` is of the ids alone."""

    file: str
    tokens: int
    bytes: int
    sha256: str
    ids_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """The file with the lightning states after the last token."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A context: `tokens` are on disk of the `total` that it is to have; both are equal once it is complete.

    fingerprint: of the model and its vocabulary. dtype: of the weights it ran with. lightning: one [H, D, D] a
    lightning layer. softmax: one [G, D] a softmax layer. created: seconds since 1970. meta: what the text floor
    wants to know again, as JSON values.
    """

    fingerprint: str
    dtype: str
    vocab_size: int
    created: float
    total: int
    tokens: int = 0
    lightning: tuple[TensorSpec, ...] = ()
    softmax: tuple[TensorSpec, ...] = ()
    parts: tuple[Part, ...] = ()
    state: StateFile | None = None
    meta: Mapping[str, Any]

    @property
    def complete(self) -> bool:
        """Whether all tokens are on disk."""
        return self.tokens == self.total

    @property
    def nbytes(self) -> int:
        """Bytes of the files that it names."""
        return sum(part.bytes for part in self.parts) + (self.state.bytes if self.state else 0)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the parts, then of the state."""
        return (*(part.file for part in self.parts), *((self.state.file,) if self.state else ()))

    def part_layout(self, tokens: int) -> dict[str, TensorSpec]:
        """The tensors of a part of so many tokens, in the file's order."""
        layout = {
            f"keys_values.{layer}": TensorSpec(shape=(2, tokens, *spec.shape), dtype=spec.dtype)
            for layer, spec in enumerate(self.softmax)
        }
        return layout | {"ids": TensorSpec(shape=(tokens,), dtype="int32")}

    def state_layout(self) -> dict[str, TensorSpec]:
        """The tensors of the state's file, in order."""
        return {f"state.{layer}": spec for layer, spec in enumerate(self.lightning)}


def read(folder: Path) -> Manifest:
    """The manifest of a context; raises CheckpointError where there is none that is whole."""
    path = folder / NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"no context at {folder}: there is no {NAME}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        keys = json.loads(text)
        version, seal = keys.pop("version"), keys.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{path} is cut, or no manifest of a context") from None
    if version != VERSION:
        raise CheckpointError(f"{path} has version {version!r}; this program reads version {VERSION}")
    if _seal(keys) != seal:
        raise CheckpointError(f"{path} was altered: its sha256 is not the one it carries")
    try:
        return _checked(keys)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} does not describe a context") from None


def write(folder: Path, manifest: Manifest) -> None:
    """Puts a manifest in the place of the one before, at one stroke."""
    keys = json.loads(json.dumps(asdict(manifest)))  # tuples become lists, as a reader will see them
    text = json.dumps({"version": VERSION, "sha256": _seal(keys), **keys}, ensure_ascii=False, indent=1)
    durable.write(folder / NAME, [text.encode() + b"\n"])


def _seal(keys: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _checked(keys: dict[str, Any]) -> Manifest:
    """A manifest whose numbers agree with each other; raises one of several errors where they do not."""
    for name in ("lightning", "softmax"):
        keys[name] = tuple(TensorSpec(shape=tuple(spec["shape"]), dtype=spec["dtype"]) for spec in keys[name])
    parts, state = tuple(Part(**part) for part in keys["parts"]), keys["state"]
    manifest = Manifest(**{**keys, "parts": parts, "state": None if state is None else StateFile(**state)})
    good = (
        manifest.tokens == sum(part.tokens for part in parts)
        and all(part.tokens > 0 for part in parts)
        and 0 <= manifest.tokens <= manifest.total
        and (manifest.tokens == 0) == (manifest.state is None)
        and all(OWN.fullmatch(file) for file in manifest.files)
        and all(known_dtype(spec.dtype) and min(spec.shape) > 0 for spec in manifest.lightning + manifest.softmax)
        and isinstance(manifest.meta, dict)
    )
    if not good:
        raise ValueError
    return manifest
