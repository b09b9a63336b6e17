"""str <-> ids over the `tokenizers` library: byte-level BPE with the family's special tokens.

In: a folder (tokenizer.json, or vocab.json and merges.txt), published merges, or a corpus to train on.
Out: `MiniMaxM1Tokenizer`: ids from text (whole or streamed), text from ids, prompts from messages.
Nothing is ever added in front or behind: the family has no automatic bos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, overload

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from minimax_m1.errors import RequestError, TokenizerError
from minimax_m1.text import chat, files
from minimax_m1.text.batch import ArrayKind, TokenBatch, batch_rows
from minimax_m1.text.streaming import TextSource, encode_stream
from minimax_m1.text.vocabulary import (
    BOS,
    EOS,
    FAMILY_SPECIALS,
    PUBLISHED_MERGES,
    SMALL_SPECIALS,
    UNK,
    VISIBLE,
    byte_symbols,
    published_pre_tokenizer,
    small_pre_tokenizer,
)

_LONG = 2**20  # characters; a longer text is encoded in blocks


class MiniMaxM1Tokenizer:
    """Byte-level BPE tokenizer of the family; any text goes to ids and comes back byte for byte.

    `config` holds the keys of `tokenizer_config.json` (bos_token, eos_token, unk_token, pad_token,
    chat_template, ...); keys that this class does not read are kept and saved.
    """

    def __init__(self, backend: Tokenizer, config: Mapping[str, Any]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self._config = dict(config)
        self._added = {token.content: id for id, token in backend.get_added_tokens_decoder().items()}
        self._hidden = frozenset(
            id
            for id, token in backend.get_added_tokens_decoder().items()
            if token.special and token.content not in VISIBLE
        )
        self._bytes = byte_symbols()

    # Making one ------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Loads "nano", a folder, or a cached hub id.

        Raises:
            ModelNotFound: the name leads nowhere.
            TokenizerError: a file is missing or broken; the message names it.
        """
        from minimax_m1.location import locate

        folder = locate(name, weights=False)
        config = files.read_config(folder)
        whole = folder / "tokenizer.json"
        if whole.is_file():
            return cls(files.read_tokenizer(whole), config)
        merges, vocab = folder / "merges.txt", folder / "vocab.json"
        if not merges.is_file():
            raise TokenizerError(f"{folder} holds neither tokenizer.json nor merges.txt")
        return cls.from_merges(
            merges,
            vocab if vocab.is_file() else None,
            specials=files.read_specials(folder, config) or None,
            config=config,
        )

    @classmethod
    def from_merges(
        cls,
        merges: Path | str,
        vocab: Path | str | None = None,
        *,
        specials: Mapping[str, int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Builds the published kind of tokenizer from merges.txt, with vocab.json where it is at hand.

        Without a vocabulary the ids are the 256 byte symbols in GPT-2's order, then one a merge. `specials`
        maps names to ids; None means the Text-01 table for the published 199,744 merges, else none at all.

        Raises:
            TokenizerError: a file is missing or broken, or a special token's id is taken.
        """
        pairs = files.read_merges(Path(merges))
        if vocab is None:
            names = dict.fromkeys([*byte_symbols(), *(left + right for left, right in pairs)])
            ids = {name: i for i, name in enumerate(names)}
        else:
            ids = files.read_vocab(Path(vocab))
        if specials is None:
            specials = FAMILY_SPECIALS if len(pairs) == PUBLISHED_MERGES else {}
        taken = {id: name for name, id in ids.items()}
        for name, id in specials.items():
            if taken.setdefault(id, name) != name or ids.get(name, id) != id:
                raise TokenizerError(f"special token {name!r} cannot have id {id}, which is {taken[id]!r}")
        # Inside the model's own table a special token keeps its id even where ids before it are free.
        try:
            model = models.BPE(vocab=ids | dict(specials), merges=pairs)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{merges} and its vocabulary do not fit: {error}") from None
        if config is None:
            config = _new_config(specials)
        return cls(_assemble(model, published_pre_tokenizer(), specials), config)

    @classmethod
    def train(
        cls, corpus: Iterable[str], *, vocab_size: int, specials: Sequence[str] = SMALL_SPECIALS, min_frequency: int = 2
    ) -> Self:
        """Learns merges from `corpus`; the same corpus always gives the same tokenizer.

        `vocab_size` counts everything: 256 bytes, merges, specials (last, in their order). A corpus with
        little in it gives fewer merges.

        Raises:
            TokenizerError: `vocab_size` is below 256 plus the specials.
        """
        least = 256 + len(specials)
        if vocab_size < least:
            raise TokenizerError(f"vocab_size must be at least {least} (bytes and specials), got {vocab_size}")
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = small_pre_tokenizer()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(specials),
            min_frequency=min_frequency,
            initial_alphabet=sorted(byte_symbols()),
            special_tokens=[],
            show_progress=False,
        )
        backend.train_from_iterator(corpus, trainer)
        return cls(_assemble(backend.model, small_pre_tokenizer(), specials), _new_config(specials))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json into `folder`, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        files.write_config(folder, self._config | {"chat_template": self.chat_template})

    # Text to ids -----------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        return_tensors: ArrayKind | None = None,
        padding: bool = False,
        padding_side: Literal["left", "right"] = "left",
    ) -> TokenBatch:
        """Encodes one text or several, as transformers does: one text without tensors gives flat lists.

        Raises:
            RequestError: see `batch_rows`; or the text cannot be written as UTF-8.
        """
        if not isinstance(text, str | Sequence):
            raise RequestError(f"text must be a string or several, got {type(text).__name__}", param="input")
        texts = [text] if isinstance(text, str) else list(text)
        batch = batch_rows(
            [self.encode(one) for one in texts],
            pad_id=self.pad_token_id,
            padding=padding,
            padding_side=padding_side,
            arrays=return_tensors,
        )
        if isinstance(text, str) and return_tensors is None:
            return TokenBatch(batch.input_ids[0], batch.attention_mask[0])
        return batch

    @overload
    def encode(self, text: str, *, stream: Literal[False] = False, split_special: bool = False) -> list[int]: ...
    @overload
    def encode(
        self, text: TextSource, *, stream: Literal[True], split_special: bool = False
    ) -> Iterator[list[int]]: ...
    def encode(
        self, text: TextSource, *, stream: bool = False, split_special: bool = False
    ) -> list[int] | Iterator[list[int]]:
        """Ids of a text; with `stream`, blocks of ids whose concatenation is the ids of the whole text.

        A stream reads a string, a Path, an open text file or an iterator of strings (see `streaming`).
        The names of special tokens in the text become those tokens; `split_special` encodes them as
        ordinary text instead, which is what text from strangers needs.

        Raises:
            RequestError: the text cannot be written as UTF-8 (a lone surrogate).
        """
        if stream:
            return encode_stream(self, text, split_special=split_special)
        if not isinstance(text, str):
            raise RequestError(f"text must be a string, got {type(text).__name__}", param="input")
        if len(text) > _LONG:
            return [id for block in encode_stream(self, text, split_special=split_special) for id in block]
        return self.encode_whole(text, split_special=split_special)

    def encode_whole(self, text: str, *, split_special: bool = False) -> list[int]:
        """The same in one piece, however long: about 240 times the text's size while it lasts; raises as `encode`."""
        backend = self._plain if split_special else self.backend
        try:
            # A batch, since the library lets other Python threads run meanwhile; for one text alone it does not.
            return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (UnicodeEncodeError, TypeError):
            place = next(i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff")
            raise RequestError(f"text holds a lone surrogate at character {place}", param="input") from None

    @cached_property
    def longest(self) -> int:
        """The most bytes that one id adds to a text."""
        return max(len(self.token_bytes(id)) for id in self.backend.get_vocab().values())

    @cached_property
    def _plain(self) -> Tokenizer:
        """The same model without its added tokens."""
        plain = Tokenizer(self.backend.model)
        plain.pre_tokenizer = self.backend.pre_tokenizer
        if self.backend.normalizer is not None:
            plain.normalizer = self.backend.normalizer
        return plain

    # Ids to text -----------------------------------------------------------------------------------

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """Text of ids: a sequence, a row or a batch of one row gives a string, several rows a list.

        Bytes that are not UTF-8 come out as U+FFFD. `skip_special_tokens` leaves out structure such as
        bos and eos; `<think>` and the tool tags are part of what was said and stay.

        Raises:
            TokenizerError: an id has no token; the message names it and the vocabulary size.
        """
        rows = ids.tolist() if hasattr(ids, "tolist") else ids
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in ([rows] if isinstance(rows, int) else rows)]
        if not rows or isinstance(rows[0], int):
            return self._decode_row(rows, skip_special_tokens)
        texts = [self._decode_row(row, skip_special_tokens) for row in rows]
        return texts[0] if len(texts) == 1 else texts

    def _decode_row(self, ids: Sequence[int], skip: bool) -> str:
        return b"".join([self.token_bytes(id, skip_special_tokens=skip) for id in ids]).decode("utf-8", "replace")

    def token_bytes(self, id: int, *, skip_special_tokens: bool = False) -> bytes:
        """The bytes that one id adds to the text; raises TokenizerError for an id without a token."""
        token = self.id_to_token(id)
        if skip_special_tokens and id in self._hidden:
            return b""
        if token in self._added:
            return token.encode()
        return bytes([self._bytes[char] for char in token])

    # The vocabulary --------------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id, specials included."""
        return max(self.backend.get_vocab().values(), default=-1) + 1

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """Names and ids of the tokens that are never split or merged."""
        return self._added

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's name, or None."""
        return self.backend.token_to_id(token)

    def id_to_token(self, id: int) -> str:
        """A token's name (byte symbols for regular tokens); raises TokenizerError for an unknown id."""
        token = self.backend.id_to_token(id) if 0 <= id < 1 << 32 else None
        if token is None:
            raise TokenizerError(f"token id {id} is not in the vocabulary of {self.vocab_size} ids")
        return token

    @property
    def bos_token(self) -> str | None:
        """The token that opens a turn."""
        return self._named("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a turn."""
        return self._named("eos_token")

    @property
    def unk_token(self) -> str | None:
        """The published unk; byte-level BPE never needs it."""
        return self._named("unk_token")

    @property
    def pad_token(self) -> str | None:
        """The token to pad with: pad, else eos."""
        return self._named("pad_token") or self.eos_token

    @property
    def bos_token_id(self) -> int | None:
        """Id of `bos_token`."""
        return self._id_of(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """Id of `eos_token`."""
        return self._id_of(self.eos_token)

    @property
    def unk_token_id(self) -> int | None:
        """Id of `unk_token`."""
        return self._id_of(self.unk_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id of `pad_token`."""
        return self._id_of(self.pad_token)

    def _named(self, key: str) -> str | None:
        value = self._config.get(key)
        return value.get("content") if isinstance(value, dict) else value

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.token_to_id(token)

    # Chat ------------------------------------------------------------------------------------------

    @property
    def chat_template(self) -> str:
        """The folder's own template; ours where it has none or the published one with its faults."""
        return chat.repaired(self._config.get("chat_template"))

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        return_tensors: ArrayKind | None = None,
    ) -> Any:
        """Messages as a prompt: ids, a tensor [1, T] with `return_tensors`, or text if not `tokenize`.

        Special tokens named in a message's text stay ordinary text in the ids (see `chat.encode_chat`).

        Raises:
            RequestError: the messages are malformed; `param` is "messages" or "tools".
        """
        if not tokenize:
            return chat.render(messages, tools, add_generation_prompt, self.chat_template)
        ids = chat.encode_chat(self, messages, tools, add_generation_prompt)
        if return_tensors is None:
            return ids
        return batch_rows([ids], pad_id=None, padding=False, padding_side="left", arrays=return_tensors).input_ids


def _assemble(model: models.Model, pre_tokenizer: pre_tokenizers.PreTokenizer, specials: Iterable[str]) -> Tokenizer:
    """A whole tokenizer; new specials get the next ids, in order."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(name, special=name not in VISIBLE, normalized=False) for name in specials])
    return backend


def _new_config(specials: Iterable[str]) -> dict[str, Any]:
    """tokenizer_config.json of a tokenizer made here; the class is the one by which transformers reads it whole."""
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    named = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": "<pad>"}
    return config | {key: name for key, name in named.items() if name in specials}
