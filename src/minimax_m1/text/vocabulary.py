"""The family's special tokens and byte symbols: names and ids, no behaviour.

Out: `FAMILY_SPECIALS` (the Text-01 id table, for the published 199,744 merges), `SMALL_SPECIALS` (for
models trained here), `VISIBLE` (tags that stay in decoded text, because the reply parser reads them),
the pre-tokenizer of small vocabularies and the byte alphabet of byte-level BPE.
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

PUBLISHED_MERGES = 199_744

BEGIN_OF_DOCUMENT = "<begin_of_document>"
BOS = "<beginning_of_sentence>"
EOS = "<end_of_sentence>"
UNK = "<end_of_document>"

THINK, THINK_END = "<think>", "</think>"
TOOL_CALLS, TOOL_CALLS_END = "<tool_calls>", "</tool_calls>"
FUNCTION_CALL = "<function_call>"

# Tokens of their own, yet part of the text that a model says.
VISIBLE = frozenset({THINK, THINK_END, TOOL_CALLS, TOOL_CALLS_END, FUNCTION_CALL})

FAMILY_SPECIALS: dict[str, int] = {
    name: 200_000 + offset
    for offset, name in enumerate(
        f"""<pad> <fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <reponame> <filename> <gh_stars> <issue_start>
        <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <empty_output>
        <commit_before> <commit_msg> <commit_after> {BOS} {EOS} {UNK} {FUNCTION_CALL} <code_interpreter> <speech>
        <image>""".split()
    )
}

SMALL_SPECIALS: tuple[str, ...] = (
    "<pad>",
    BEGIN_OF_DOCUMENT,
    BOS,
    EOS,
    UNK,
    THINK,
    THINK_END,
    TOOL_CALLS,
    TOOL_CALLS_END,
)

# A digit, a word without its space, a newline, a run of other white space, any other character.
SMALL_SPLIT = r"\p{N}|\p{L}+|\n|[^\S\n]+|[^\s\p{L}\p{N}]"


def published_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """The GPT-2 split of the published tokenizer."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def small_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """The split of the vocabularies trained here: a word has the same tokens wherever it stands."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SMALL_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_symbols() -> dict[str, int]:
    """The printable character that stands for each byte (GPT-2's table), in order of id."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
