"""`Worksheet`: one batch's folder, with the lines to ask and the lines answered so far.

In: a file of requests, one a line; then answers, in any order. Out: what is wrong with the file; the lines that still
have no answer; two files of answers, good and bad. An answer is on disk before anyone is told of it, and a line cut by
a kill is cut off again when the sheet is opened, so what was answered is never asked twice. All of it may block.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from minimax_m1.errors import RequestError
from minimax_m1.wire.batches import (
    Answered,
    BatchError,
    BatchLine,
    BatchUsage,
    InputDetails,
    OutputDetails,
    RequestCounts,
)
from minimax_m1.wire.body import read

INPUT, OUTPUT, ERRORS = "input.jsonl", "output.jsonl", "errors.jsonl"
MOST_LINES = 50_000
MOST_BYTES = 200 * 2**20  # of the whole input
LINE_BYTES = 64 * 2**20
_TOLD = 1000  # errors of one file that are told
_EXPIRED = "batch_expired"


def check(path: Path, endpoint: str) -> tuple[int, list[BatchError]]:
    """How many requests the file at `path` holds, and what is wrong with them; at most the first 1,000 faults."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        message = f"the file has {size} bytes, more than the limit of {MOST_BYTES}"
        return 0, [BatchError(code="file_too_large", message=message)]
    errors: list[BatchError] = []
    seen: dict[str, int] = {}
    total = 0
    for number, raw in _raw_lines(path):
        total += 1
        if total > MOST_LINES:
            message = f"the file has more than the limit of {MOST_LINES} requests"
            errors.append(BatchError(code="too_many_requests", line=number, message=message))
        else:
            errors += _faults(number, raw, endpoint, seen)
        if total > MOST_LINES or len(errors) >= _TOLD:
            return total, errors[:_TOLD]
    if total == 0:
        errors = [BatchError(code="empty_file", message="the file holds no request")]
    return total, errors


class Worksheet:
    """The lines of a checked batch; `open` it before anything else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._closed = False
        self._done: set[str] = set()
        self._tally: Counter[str] = Counter()
        self._files: dict[str, BinaryIO] = {}

    def open(self) -> None:
        """Reads the answers that are there; after `close` it does nothing."""
        with self._lock:
            for name in () if self._closed else (OUTPUT, ERRORS):
                self._files[name] = (self._folder / name).open("a+b")
                self._read_back(self._files[name])

    @property
    def counts(self) -> RequestCounts:
        """The answers so far; lines that were never asked count in neither way."""
        completed, failed = self._tally["completed"], self._tally["failed"]
        return RequestCounts(total=len(self._done), completed=completed, failed=failed)

    @property
    def usage(self) -> BatchUsage:
        """Tokens that the answers took."""
        of = self._tally
        return BatchUsage(
            input_tokens=of["input"],
            input_tokens_details=InputDetails(cached_tokens=of["cached"]),
            output_tokens=of["output"],
            output_tokens_details=OutputDetails(reasoning_tokens=of["reasoning"]),
            total_tokens=of["input"] + of["output"],
        )

    @property
    def expired(self) -> bool:
        """Whether time ran out before every line was asked."""
        return self._tally[_EXPIRED] > 0

    def unanswered(self) -> Iterator[BatchLine]:
        """The lines that have no answer yet, read as they are asked for."""
        for _, raw in _raw_lines(self._folder / INPUT):
            line = read(BatchLine, raw)
            if line.custom_id not in self._done:
                yield line

    def append(self, *answers: Answered) -> None:
        """Writes answers and waits until they are on disk; a line's second answer, or one after `close`, is dropped."""
        with self._lock:
            touched: set[BinaryIO] = set()
            for answered in () if self._closed else answers:
                good = answered.response is not None and answered.response.status_code < 400
                file = self._files[OUTPUT if good else ERRORS]
                if answered.custom_id not in self._done:
                    file.write(answered.model_dump_json().encode() + b"\n")
                    touched.add(file)
                    self._count(answered)
            for file in touched:
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Waits for the answer that is being written; `counts` and `usage` are final afterwards."""
        with self._lock:
            self._closed = True
            for file in self._files.values():
                file.close()

    def _read_back(self, file: BinaryIO) -> None:
        file.seek(0)
        whole = 0
        for raw in file:
            try:
                answered = Answered.model_validate_json(raw if raw.endswith(b"\n") else b"")
            except ValueError:  # cut by a kill or a power cut; from here on, all is asked again
                file.truncate(whole)
                break
            whole += len(raw)
            self._count(answered)

    def _count(self, answered: Answered) -> None:
        self._done.add(answered.custom_id)
        if answered.response is None:
            self._tally["" if answered.error is None else answered.error.code] += 1
        elif answered.response.status_code >= 400:
            self._tally["failed"] += 1
        else:
            self._tally["completed"] += 1
            self._tally.update(_spent(answered.response.body))


def _spent(body: Any) -> dict[str, int]:
    """The tokens of a reply in any of the protocols."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return {}

    def first(*names: str) -> int:
        for name in names:
            value: Any = usage
            for step in name.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            if isinstance(value, int):
                return value
        return 0

    return {
        # Anthropic counts what came from the cache beside the input, the others count it in.
        "input": first("prompt_tokens", "input_tokens") + first("cache_read_input_tokens"),
        "output": first("completion_tokens", "output_tokens"),
        "cached": first(
            "prompt_tokens_details.cached_tokens",
            "input_tokens_details.cached_tokens",
            "cache_read_input_tokens",
            "cached_tokens",
        ),
        "reasoning": first(
            "completion_tokens_details.reasoning_tokens",
            "output_tokens_details.reasoning_tokens",
            "reasoning_tokens",
        ),
    }


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines with something on them, numbered from 1; of one over the limit only so much that it shows."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            rest = raw
            while len(rest) > LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(LINE_BYTES + 1)
            line = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
            if line:
                yield number, line


def _faults(number: int, raw: bytes, endpoint: str, seen: dict[str, int]) -> Iterator[BatchError]:
    """What is wrong with one line; `seen` has the ids of those before it, and gets this one's."""

    def fault(code: str, message: str, param: str | None = None) -> BatchError:
        return BatchError(code=code, line=number, message=message, param=param)

    if len(raw) > LINE_BYTES:
        yield fault("line_too_long", f"the line is longer than the limit of {LINE_BYTES} bytes")
        return
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        yield fault("invalid_json_line", f"the line is not JSON: {error}")
        return
    if not isinstance(value, dict):
        yield fault("invalid_json_line", "the line is not a JSON object")
        return
    try:
        line = read(BatchLine, raw)
    except RequestError as error:
        missing = error.param is not None and error.param not in value
        yield fault("missing_required_parameter" if missing else "invalid_value", str(error), error.param)
        return
    first = seen.setdefault(line.custom_id, number)
    if first != number:
        message = f"custom_id {line.custom_id!r} is that of line {first} too; each must be unique"
        yield fault("duplicate_custom_id", message, "custom_id")
    if line.url != endpoint:
        yield fault("mismatched_url", f"url {line.url!r} is not the batch's endpoint {endpoint!r}", "url")
    if line.body.get("stream"):
        yield fault("invalid_value", "a request in a batch cannot be streamed", "body.stream")
