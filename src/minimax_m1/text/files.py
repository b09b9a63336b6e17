"""Tokenizer files on disk: tokenizer.json, tokenizer_config.json, merges.txt, vocab.json, added tokens.

In: paths. Out: parsed values, or a TokenizerError that names the file and what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from minimax_m1.errors import TokenizerError


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads tokenizer.json; raises TokenizerError unless it holds byte-level BPE."""
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path} is not a readable tokenizer: {error}") from None
    if not isinstance(backend.model, models.BPE) or not isinstance(backend.decoder, decoders.ByteLevel):
        raise TokenizerError(f"{path} is not byte-level BPE, the only kind of the family")
    return backend


def read_config(folder: Path) -> dict[str, Any]:
    """Reads tokenizer_config.json, with the template of chat_template.jinja where that file is there."""
    path = folder / "tokenizer_config.json"
    config = _read_object(path)
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = _read_text(template)
    if isinstance(named := config.get("chat_template"), list):  # several templates, each with a name
        by_name = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
        config["chat_template"] = by_name.get("default")
    if not isinstance(config.get("chat_template"), str | None):
        raise TokenizerError(f"chat_template in {path} must be text, got {type(config['chat_template']).__name__}")
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes tokenizer_config.json."""
    text = json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Reads merges.txt: one pair a line, in order of rank; raises TokenizerError naming a bad line."""
    pairs = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise TokenizerError(f"{path} line {number} must hold two symbols, got {line!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def read_vocab(path: Path) -> dict[str, int]:
    """Reads vocab.json, names to ids; raises TokenizerError where it holds anything else."""
    vocab = _read_object(path)
    for name, id in vocab.items():
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise TokenizerError(f"{path} gives token {name!r} the id {id!r}, which is no whole number of at least 0")
    return vocab


def read_specials(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens and ids that a folder without tokenizer.json tells: added_tokens.json and the config."""
    specials: dict[str, int] = {}
    if (folder / "added_tokens.json").is_file():
        specials.update(read_vocab(folder / "added_tokens.json"))
    try:
        for id, token in config.get("added_tokens_decoder", {}).items():
            specials[token["content"]] = int(id)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TokenizerError(f"added_tokens_decoder in {folder / 'tokenizer_config.json'} is malformed") from None
    return specials


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 at byte {error.start}") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
