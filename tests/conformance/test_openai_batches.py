"""The official `openai` client against nano: files go up and come back, batches are worked off and cancelled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

PATH: Any = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def line(id: str, text: str, **more: Any) -> str:
    body = {"model": "nano", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}
    return json.dumps({"custom_id": id, "method": "POST", "url": PATH, "body": body}) + "\n"


def upload(client: OpenAI, *lines: str) -> str:
    return client.files.create(file=("in.jsonl", "".join(lines).encode()), purpose="batch").id


def until_over(client: OpenAI, id: str) -> Any:
    end = time.monotonic() + 60
    while (batch := client.batches.retrieve(id)).status not in OVER:
        assert time.monotonic() < end
        time.sleep(0.05)
    return batch


def test_a_file_comes_back_as_it_was(client: OpenAI) -> None:
    data = b"\x00\xff\r\n" * 100_000
    file = client.files.create(file=("a b.bin", data), purpose="user_data")
    assert (file.filename, file.bytes, file.purpose) == ("a b.bin", len(data), "user_data")
    assert client.files.retrieve(file.id).created_at == file.created_at
    assert client.files.content(file.id).read() == data
    assert file.id in [each.id for each in client.files.list()]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_is_worked_off(client: OpenAI) -> None:
    file = upload(client, line("a", "What is 17 + 25?"), line("b", "What is 20 + 30?"), line("c", "x", temperature=-1))
    batch = client.batches.create(
        input_file_id=file, endpoint=PATH, completion_window="24h", metadata={"for": "a test"}
    )
    assert batch.status in ("validating", "in_progress") and batch.object == "batch"
    batch = until_over(client, batch.id)
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 3, 2, 1)
    told = [json.loads(each) for each in client.files.content(batch.output_file_id).text.splitlines()]
    texts = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in told}
    assert texts == {"a": "42", "b": "50"}
    [wrong] = [json.loads(each) for each in client.files.content(batch.error_file_id).text.splitlines()]
    assert wrong["custom_id"] == "c" and wrong["response"]["status_code"] == 400
    assert batch.id in [each.id for each in client.batches.list(limit=5)]


def test_a_batch_that_cannot_be_read_fails_with_its_lines(client: OpenAI) -> None:
    file = upload(client, line("a", "x"), line("a", "x"), "{broken\n")
    batch = until_over(client, client.batches.create(input_file_id=file, endpoint=PATH, completion_window="24h").id)
    assert batch.status == "failed" and {error.line for error in batch.errors.data} == {2, 3}


def test_a_batch_can_be_cancelled(client: OpenAI) -> None:
    lines = [line(str(number), "x", max_tokens=2000, ignore_eos=True, temperature=1) for number in range(50)]
    batch = client.batches.create(input_file_id=upload(client, *lines), endpoint=PATH, completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    assert until_over(client, batch.id).status == "cancelled"


def test_refusals(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_nothing")
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.batches.create(input_file_id="file-nothing", endpoint=PATH, completion_window="24h")
    wrong: Any = "/v1/nothing"
    with pytest.raises(openai.BadRequestError):
        client.batches.create(input_file_id=upload(client, line("a", "x")), endpoint=wrong, completion_window="24h")
