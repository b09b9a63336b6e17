"""`PrefixCache`: what was read before, as a radix tree over tokens, so that it need not be read again.

In: token ids, the pages that hold their keys and values, and a checkpoint: the lightning states after them, opaque
here. Out: the longest checkpoint that begins a prompt, found by comparing tokens, and how far the tree knows the
prompt at all: where two prompts part is where the next checkpoint is worth making. Least recently used checkpoints go
first, within a budget of bytes and whenever somebody needs their pages. No torch.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minimax_m1.engine.pages import PageAllocator

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A state kept: `state` is the engine's; `answers` says that it holds the next token's logits too."""

    state: Any
    nbytes: int
    answers: bool


@dataclass(slots=True, eq=False)
class _Node:
    """The tokens from `start` on, up to where prompts part or a checkpoint lies, and the pages that they touch."""

    parent: _Node | None
    start: int
    tokens: Ids
    pages: list[int]
    children: dict[int, _Node]
    checkpoint: Checkpoint | None = None

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What is known of a prompt: a checkpoint after `length` tokens in `pages`; `known` tokens are in the tree."""

    checkpoint: Checkpoint | None
    length: int
    pages: Sequence[int]
    known: int


class PrefixCache:
    """Holds pages of `pages` and checkpoints of at most `budget` bytes; 0 keeps nothing.

    A `space` is a world of its own: what was read with another expert threshold is another past.
    """

    def __init__(self, pages: PageAllocator, budget: int) -> None:
        self._pages = pages
        self._budget = budget
        self._roots: dict[Hashable, _Node] = {}
        self._used: OrderedDict[_Node, None] = OrderedDict()  # nodes with a checkpoint, least recently used first
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._used)

    @property
    def nbytes(self) -> int:
        """Bytes of all checkpoints held."""
        return self._nbytes

    def match(self, ids: Ids, space: Hashable, least: int = 0, most: int = sys.maxsize) -> Match:
        """The longest checkpoint that begins `ids`, of those after `least` to `most` tokens.

        One that covers all of `ids` counts only if it answers: somebody has to say what comes next.
        """
        node, best, known = self._roots.get(space), None, 0
        while node is not None and known < len(ids):
            node = node.children.get(int(ids[known]))
            if node is None:
                break
            same = common(node.tokens, ids[known:])
            known += same
            if same < len(node.tokens):
                break
            kept = node.checkpoint
            if kept is not None and (node.stop < len(ids) or kept.answers) and least <= node.stop <= most:
                best = node
        if best is None:
            return Match(checkpoint=None, length=0, pages=(), known=known)
        self._used.move_to_end(best)
        return Match(checkpoint=best.checkpoint, length=best.stop, pages=self._path(best), known=known)

    def insert(self, ids: Ids, space: Hashable, pages: Sequence[int], checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint after `ids`, whose keys and values lie in `pages`; holds those it adds to the tree."""
        if checkpoint.nbytes > self._budget or len(ids) == 0:
            return
        size = self._pages.size
        node, at = self._roots.setdefault(space, _Node(None, 0, ids[:0], [], {})), 0
        while at < len(ids):
            child = node.children.get(int(ids[at]))
            if child is None:
                held = list(pages[at // size : self._pages.covering(len(ids))])
                self._pages.share(held, cached=True)
                child = _Node(node, at, ids[at:].copy(), held, {})
                node.children[int(ids[at])] = child
            elif (same := common(child.tokens, ids[at:])) < len(child.tokens):
                child = self._split(child, same)
            node, at = child, child.stop
        if node.checkpoint is None or (checkpoint.answers and not node.checkpoint.answers):
            self._nbytes += checkpoint.nbytes - (0 if node.checkpoint is None else node.checkpoint.nbytes)
            node.checkpoint = checkpoint
        self._used[node] = None
        self._used.move_to_end(node)
        while self._nbytes > self._budget:
            self._evict()

    def clear(self) -> None:
        """Gives up every checkpoint."""
        while self._used:
            self._evict()

    def reclaim(self, count: int) -> None:
        """Gives up checkpoints until `count` pages are free, or there is nothing left to give up."""
        while self._pages.free < count and self._used:
            self._evict()

    def _evict(self) -> None:
        node, _ = self._used.popitem(last=False)
        assert node.checkpoint is not None
        self._nbytes -= node.checkpoint.nbytes
        node.checkpoint = None
        # Pages without a checkpoint behind them lead nowhere.
        while node.parent is not None and node.checkpoint is None and not node.children:
            self._pages.drop(node.pages, cached=True)
            del node.parent.children[int(node.tokens[0])]
            node = node.parent
        if node.parent is None and not node.children:
            self._roots = {space: root for space, root in self._roots.items() if root is not node}

    def _split(self, node: _Node, tokens: int) -> _Node:
        """Cuts a node after its first `tokens` tokens; gives the upper part, which has no checkpoint."""
        assert node.parent is not None and 0 < tokens < len(node.tokens)
        cut, size = node.start + tokens, self._pages.size
        first = node.start // size
        upper = _Node(node.parent, node.start, node.tokens[:tokens].copy(), node.pages[: -(-cut // size) - first], {})
        if cut % size:  # the page with the cut in it belongs to both
            self._pages.share(upper.pages[-1:], cached=True)
        node.parent.children[int(upper.tokens[0])] = upper
        node.parent, node.start, node.tokens = upper, cut, node.tokens[tokens:].copy()
        node.pages = node.pages[cut // size - first :]
        upper.children[int(node.tokens[0])] = node
        return upper

    def _path(self, node: _Node) -> list[int]:
        """The pages of all tokens up to a node's end: where two nodes share a page, the later one's is fuller."""
        path = [node]
        while (parent := path[-1].parent) is not None:
            path.append(parent)
        pages: list[int] = []
        for part in reversed(path):
            del pages[part.start // self._pages.size :]
            pages += part.pages
        return pages


def common(a: Ids, b: Ids) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(a), len(b))
    for start in range(0, length, 4096):  # two prompts mostly part early
        different = a[start : min(start + 4096, length)] != b[start : min(start + 4096, length)]
        if different.any():
            return start + int(different.argmax())
    return length
