"""Batches over a scripted endpoint: every line answered once, whatever is broken, cancelled, late or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import openai.types.chat
import pytest
from starlette.responses import Response

from minimax_m1.errors import RequestError, ServerBusy
from minimax_m1.serve.batches import Batches
from minimax_m1.serve.files import Files
from minimax_m1.serve.registry import request_id
from minimax_m1.serve.service import Service
from minimax_m1.serve.store import Store
from minimax_m1.wire.errors import Fault

CHAT = "/v1/chat/completions"
NOW = float(int(time.time()))  # the age of folders is told by the real clock
HOUR, DAY = 3600, 86_400


class House:
    """Batches over a home; `say` answers by the text that a body has, and `asked` counts the texts."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.now = NOW
        self.home = home
        self.store = Store(home / "server.db")
        self.service = cast(Service, SimpleNamespace(store=self.store, home=home, name="nano"))
        self.files = Files(self.service, clock=lambda: self.now)
        self.asked: Counter[str] = Counter()
        self.open, self.most_open = 0, 0
        self.ids: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        dispatch = {CHAT: self._answer, "/v1/responses": self._answer}
        options = {"pulse": 0.02} | options
        self.batches = Batches(self.service, dispatch, self.files, clock=lambda: self.now, **options)

    async def _answer(self, service: Service, body: bytes) -> Response:
        assert service is self.service
        text = json.loads(body)["text"]
        self.asked[text] += 1
        self.ids.add(request_id.get())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0.001)
            if "wait" in text:
                await self.gate.wait()
        finally:
            self.open -= 1
        if "refuse" in text:
            raise RequestError("this cannot be", param="messages")
        if "crash" in text:
            raise ZeroDivisionError
        if "busy" in text and self.asked[text] == 1:
            raise ServerBusy("the queue is full")
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        reply = json.dumps({"said": text.upper(), "usage": usage})
        return Response(reply, media_type="application/json")

    async def give(self, data: bytes, purpose: str = "batch") -> str:
        """A file with these bytes."""
        path = self.home / "given"
        path.write_bytes(data)
        file_id = f"file-{os.urandom(8).hex()}"
        await self.files.adopt(file_id, path, "in.jsonl", None)
        await self.store.change("file", file_id, lambda record: {**(record or {}), "purpose": purpose})
        path.unlink()
        return file_id

    async def create(self, texts: list[str] | bytes, **fields: Any) -> openai.types.Batch:
        data = texts if isinstance(texts, bytes) else b"".join(line(text) for text in texts)
        file_id = fields.get("input_file_id") or await self.give(data)
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
        return told(await self.batches.create(json.dumps(body).encode()))

    async def show(self, batch: openai.types.Batch) -> openai.types.Batch:
        return told(await self.batches.show(batch.id))

    async def until(self, batch: openai.types.Batch, *statuses: str) -> openai.types.Batch:
        for _ in range(2000):
            now = await self.show(batch)
            if now.status in statuses:
                return now
            await asyncio.sleep(0.01)
        raise AssertionError(f"the batch is still {now.status}")

    def lines(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        """An output file, by custom_id, each there once."""
        assert file_id is not None
        lines = [json.loads(raw) for raw in self.files.path(file_id).read_bytes().splitlines()]
        assert len({each["custom_id"] for each in lines}) == len({each["id"] for each in lines}) == len(lines)
        return {each["custom_id"]: each for each in lines}

    async def close(self) -> None:
        await self.batches.close()
        await self.files.close()
        await self.store.close()


def line(text: str, **fields: Any) -> bytes:
    whole = {"custom_id": f"id {text}", "method": "POST", "url": CHAT, "body": {"text": text}} | fields
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode() + b"\n"


def told(response: Response) -> openai.types.Batch:
    return openai.types.Batch.model_validate_json(bytes(response.body))


def living(home: Path, work: Callable[[House], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        house = House(home, **options)
        try:
            await house.batches.start()
            await work(house)
        finally:
            await house.close()

    asyncio.run(run())


def test_a_batch_is_worked_off_and_told_in_the_form_of_openai(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        texts = [*(f"t{number}" for number in range(40)), "refuse", "crash"]
        made = await house.create(texts, metadata={"who": "me"}, completion_window="7d")
        assert (made.status, made.endpoint, made.model, made.metadata) == ("validating", CHAT, "nano", {"who": "me"})
        assert (made.created_at, made.expires_at, made.completion_window) == (NOW, NOW + 7 * DAY, "7d")
        done = await house.until(made, "completed")
        assert done.id == made.id and done.input_file_id == made.input_file_id
        counts, usage = done.request_counts, done.usage
        assert counts is not None and usage is not None
        assert (counts.total, counts.completed, counts.failed) == (42, 40, 2)
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (400, 200, 600)
        assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (160, 80)
        assert done.in_progress_at == done.finalizing_at == done.completed_at == NOW
        assert (done.failed_at, done.expired_at, done.cancelled_at, done.errors) == (None,) * 4
        good, bad = house.lines(done.output_file_id), house.lines(done.error_file_id)
        assert set(good) == {f"id t{number}" for number in range(40)} and set(bad) == {"id refuse", "id crash"}
        one = good["id t7"]
        assert one["error"] is None and one["id"].startswith("batch_req_")
        assert (one["response"]["status_code"], one["response"]["body"]["said"]) == (200, "T7")
        assert {each["id"] for each in [*good.values(), *bad.values()]} == house.ids
        assert (bad["id refuse"]["error"], bad["id refuse"]["response"]["status_code"]) == (None, 400)
        assert bad["id refuse"]["response"]["body"]["error"]["param"] == "messages"
        assert bad["id crash"]["response"]["status_code"] == 500
        assert set(house.asked.values()) == {1}
        assert 1 < house.most_open <= 16
        file = await house.files.find(done.output_file_id or "")
        assert (file.purpose, file.filename) == ("batch_output", f"{done.id}_output.jsonl")
        assert list((tmp_path / "batches").iterdir()) == []

    living(tmp_path, work)


def test_a_line_that_finds_no_room_is_asked_again(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        done = await house.until(await house.create(["busy", "idle"]), "completed")
        assert set(house.lines(done.output_file_id)) == {"id busy", "id idle"} and done.error_file_id is None
        assert house.asked == {"busy": 2, "idle": 1}

    living(tmp_path, work)


def test_no_more_requests_are_under_way_than_allowed_over_all_batches(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        made = [await house.create([f"{name}{number}" for number in range(20)]) for name in "abc"]
        for batch in made:
            await house.until(batch, "completed")
        assert house.most_open == 3 and len(house.asked) == 60

    living(tmp_path, work, concurrency=3)


FAULTS = [
    (b'{"custom_id": "a", "url"', 1, "invalid_json_line", None),
    (b"[1, 2]", 2, "invalid_json_line", None),
    (line("t", custom_id=None), 3, "missing_required_parameter", "custom_id"),
    (line("t", custom_id=""), 4, "invalid_value", "custom_id"),
    (line("t", body=None), 5, "missing_required_parameter", "body"),
    (line("t", body=[1]), 6, "invalid_value", "body"),
    (line("t", url="/v1/responses"), 7, "mismatched_url", "url"),
    (line("u", method="GET"), 8, "invalid_value", "method"),
    (line("u", body={"stream": True}), 9, "invalid_value", "body.stream"),
    (line("u"), 10, "duplicate_custom_id", "custom_id"),
    (b'{"custom_id": "b", "body": {"x": NaN}}', 11, "invalid_json_line", None),
]


def test_every_fault_of_the_input_is_told_with_its_line(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        data = b"\n".join(raw.strip() for raw, *_ in FAULTS) + b"\n\n" + line("fine")
        failed = await house.until(await house.create(data), "failed")
        assert failed.errors is not None and failed.errors.object == "list" and failed.failed_at == NOW
        errors = [(each.line, each.code, each.param) for each in failed.errors.data or []]
        assert errors == [fault[1:] for fault in FAULTS]
        assert all(each.message for each in failed.errors.data or [])
        assert (failed.output_file_id, failed.in_progress_at) == (None, None) and not house.asked
        await house.until(failed, "failed")
        while list((tmp_path / "batches").iterdir()):
            await asyncio.sleep(0.01)

    living(tmp_path, work)


def test_blank_lines_a_mark_at_the_start_and_no_line_end_at_the_end_are_fine(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        data = b"\xef\xbb\xbf" + line("a") + b"\r\n  \n" + line("b").strip()
        done = await house.until(await house.create(data), "completed", "failed")
        assert done.errors is None and set(house.asked) == {"a", "b"}

    living(tmp_path, work)


@pytest.mark.parametrize(
    ("limit", "value", "data", "code", "number"),
    [
        ("MOST_LINES", 2, line("a") + line("b") + line("c"), "too_many_requests", 3),
        ("MOST_BYTES", 100, line("a") + line("b"), "file_too_large", None),
        ("LINE_BYTES", 200, line("a") + line("b" * 1000) + line("c"), "line_too_long", 2),
        ("MOST_LINES", 9, b" \n\n", "empty_file", None),
        ("MOST_LINES", 9, b"", "empty_file", None),
    ],
)
def test_a_file_outside_the_limits_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, data: bytes, code: str, number: int | None
) -> None:
    monkeypatch.setattr(f"minimax_m1.serve.worksheet.{limit}", value)

    async def work(house: House) -> None:
        failed = await house.until(await house.create(data), "failed")
        assert failed.errors is not None
        assert [(each.code, each.line) for each in failed.errors.data or []] == [(code, number)]

    living(tmp_path, work)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "0h"}, 400, "completion_window"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, 400, "metadata"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires_after.seconds"),
    ],
)
def test_a_request_that_cannot_be_is_refused_at_once(
    tmp_path: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    async def work(house: House) -> None:
        with pytest.raises((RequestError, Fault)) as caught:
            await house.create(["a"], **fields)
        fault = Fault.of(caught.value)
        assert (fault.status, fault.param) == (status, param)

    living(tmp_path, work)


def test_a_file_for_something_else_is_refused_and_a_batch_that_is_not_there_is_a_404(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        file_id = await house.give(line("a"), purpose="vision")
        with pytest.raises(RequestError, match="uploaded for 'vision', not for 'batch'"):
            await house.create(b"", input_file_id=file_id)
        for ask in (house.batches.show, house.batches.cancel):
            with pytest.raises(Fault, match="no batch 'batch_x'") as caught:
                await ask("batch_x")
            assert caught.value.status == 404

    living(tmp_path, work)


def test_batches_are_listed_in_pages(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        made = [(await house.create(["a"])).id for _ in range(5)]
        page = json.loads(bytes((await house.batches.page({"limit": "2"})).body))
        assert [each["id"] for each in page["data"]] == [page["first_id"], page["last_id"]] == made[:2:-1]
        assert page["object"] == "list" and page["has_more"]
        page = json.loads(bytes((await house.batches.page({"limit": "3", "after": page["last_id"]})).body))
        assert [each["id"] for each in page["data"]] == made[2::-1] and not page["has_more"]
        with pytest.raises(RequestError, match="limit"):
            await house.batches.page({"limit": "101"})

    living(tmp_path, work)


def test_a_cancelled_batch_drops_what_is_under_way_and_keeps_what_is_done(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        house.gate.clear()
        made = await house.create(["a", "b", *(f"wait {number}" for number in range(30))])
        while (await house.show(made)).request_counts != openai.types.BatchRequestCounts(
            total=32, completed=2, failed=0
        ):
            await asyncio.sleep(0.01)
        house.now += 7
        stopping = told(await house.batches.cancel(made.id))
        assert (stopping.status, stopping.cancelling_at) == ("cancelling", NOW + 7)
        house.now += 7
        assert told(await house.batches.cancel(made.id)).cancelling_at == NOW + 7
        done = await house.until(made, "cancelled")
        assert house.open == 0 and done.cancelled_at == NOW + 14
        assert set(house.lines(done.output_file_id)) == {"id a", "id b"}
        rest = house.lines(done.error_file_id)
        assert set(rest) == {f"id wait {number}" for number in range(30)}
        assert {(each["error"]["code"], each["response"]) for each in rest.values()} == {("batch_cancelled", None)}
        assert done.request_counts is not None and done.request_counts.failed == 0
        with pytest.raises(RequestError, match="is cancelled and cannot be cancelled"):
            await house.batches.cancel(made.id)

    living(tmp_path, work)


def test_what_is_not_done_in_time_expires(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        house.gate.clear()
        expiry = {"anchor": "created_at", "seconds": HOUR}
        made = await house.create(["a", "wait"], completion_window="1h", output_expires_after=expiry)
        while not house.open or not (await house.show(made)).request_counts.completed:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        house.now += HOUR
        done = await house.until(made, "expired")
        assert done.expired_at == NOW + HOUR
        assert set(house.lines(done.output_file_id)) == {"id a"}
        assert house.lines(done.error_file_id)["id wait"]["error"]["code"] == "batch_expired"
        assert (await house.files.find(done.output_file_id or "")).expires_at == NOW + 2 * HOUR

    living(tmp_path, work)


def test_the_input_may_be_deleted_meanwhile(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        house.gate.clear()
        made = await house.create([f"wait {number}" for number in range(40)])
        await house.files.remove(made.input_file_id)
        house.gate.set()
        assert len(house.lines((await house.until(made, "completed")).output_file_id)) == 40

    living(tmp_path, work)


@pytest.mark.parametrize("cut", [b"", b'{"id": "batch_req_x", "custom_id": "id wait 3", "resp'])
def test_a_restart_asks_only_what_has_no_answer(tmp_path: Path, cut: bytes) -> None:
    made = []

    async def begin(house: House) -> None:
        house.gate.clear()
        made.append(await house.create(["a", "refuse", "b", *(f"wait {number}" for number in range(20))]))
        while sum(house.asked.values()) < 16 + 3 or (await house.show(made[0])).request_counts.failed != 1:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)

    async def end(house: House) -> None:
        done = await house.until(made[0], "completed")
        assert set(house.asked) == {f"wait {number}" for number in range(20)}
        assert len(house.lines(done.output_file_id)) == 22 and set(house.lines(done.error_file_id)) == {"id refuse"}
        counts, usage = done.request_counts, done.usage
        assert counts is not None and (counts.total, counts.completed, counts.failed) == (23, 22, 1)
        assert usage is not None and usage.total_tokens == 22 * 15

    living(tmp_path, begin)
    with (tmp_path / "batches" / made[0].id / "output.jsonl").open("ab") as file:
        file.write(cut)
    living(tmp_path, end)


def test_another_server_of_the_home_leaves_a_batch_alone_and_may_cancel_it(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        house.gate.clear()
        made = await house.create(["a", "wait"])
        await house.until(made, "in_progress")
        other = House(tmp_path, patrol=0.02)
        await other.batches.start()
        await asyncio.sleep(0.2)
        assert not other.asked and (tmp_path / "batches" / made.id).is_dir()
        await other.batches.cancel(made.id)
        await house.until(made, "cancelled")
        second = await house.create(["a", "wait"])
        await house.until(second, "in_progress")
        await house.batches.close()  # it goes, and the other takes over
        assert set(other.lines((await other.until(second, "completed")).output_file_id)) == {"id a", "id wait"}
        await other.close()

    living(tmp_path, work)


@pytest.mark.parametrize("step", ["adopt", "rmtree"])
def test_a_kill_while_the_answers_are_handed_over_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = []

    def die(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    async def begin(house: House) -> None:
        file_id = await house.give(line("a") + line("refuse"))
        if step == "adopt":
            monkeypatch.setattr(house.files, "adopt", die)
        else:
            monkeypatch.setattr("minimax_m1.serve.batches.shutil.rmtree", die)
        made.append(await house.create(b"", input_file_id=file_id))
        await house.until(made[0], "finalizing" if step == "adopt" else "completed")

    async def end(house: House) -> None:
        done = await house.until(made[0], "completed")
        assert set(house.lines(done.output_file_id)) == {"id a"} and not house.asked
        assert set(house.lines(done.error_file_id)) == {"id refuse"}
        while list((tmp_path / "batches").iterdir()):
            await asyncio.sleep(0.01)

    living(tmp_path, begin)
    monkeypatch.undo()
    living(tmp_path, end)


def test_a_folder_that_someone_removed_fails_its_batch(tmp_path: Path) -> None:
    made = []

    async def begin(house: House) -> None:
        house.gate.clear()
        made.append(await house.create(["wait"]))
        await house.until(made[0], "in_progress")

    async def end(house: House) -> None:
        failed = await house.until(made[0], "failed")
        assert failed.errors is not None and [each.code for each in failed.errors.data or []] == ["file_missing"]

    living(tmp_path, begin)
    (tmp_path / "batches" / made[0].id).rename(tmp_path / "elsewhere")
    living(tmp_path, end)


def test_the_official_client_runs_a_batch_on_the_whole_server(served: Any) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        texts = {"sum": "2 + 2", "greeting": "hello"}
        asks = {
            name: {"model": "nano", "messages": [{"role": "user", "content": text}]} for name, text in texts.items()
        }
        asks["lost"] = asks["sum"] | {"model": "another"}
        data = b"".join(line("", custom_id=name, body=body) for name, body in asks.items())
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while batch.status != "completed":
            time.sleep(0.02)
            batch = client.batches.retrieve(batch.id)
        assert [each.id for each in client.batches.list()] == [batch.id]
        contents = [client.files.content(each or "").text for each in (batch.output_file_id, batch.error_file_id)]
    good, bad = ({json.loads(raw)["custom_id"]: json.loads(raw) for raw in text.splitlines()} for text in contents)
    replies = {
        name: openai.types.chat.ChatCompletion.model_validate(each["response"]["body"]) for name, each in good.items()
    }
    assert {name: reply.choices[0].message.content for name, reply in replies.items()} == {
        "sum": "4",
        "greeting": "Hello, how are you? I am fine.",
    }
    assert bad["lost"]["response"]["status_code"] == 404
    usages = [reply.usage for reply in replies.values() if reply.usage is not None]
    assert batch.usage is not None and batch.usage.total_tokens == sum(usage.total_tokens for usage in usages) > 0
    assert [request.priority for request in served.engine.requests[-2:]] == [1000, 1000]


VICTIM = """
import asyncio, json, sys
from pathlib import Path
from types import SimpleNamespace
from starlette.responses import Response
from minimax_m1.serve.batches import Batches
from minimax_m1.serve.files import Files
from minimax_m1.serve.store import Store

async def answer(service, body):
    text = json.loads(body)["text"]
    with open(sys.argv[1] + "/asked", "a") as log:
        log.write(text + "\\n")
    await asyncio.sleep(0.002)
    return Response(json.dumps({"said": text}))

async def main():
    home = Path(sys.argv[1])
    service = SimpleNamespace(store=Store(home / "server.db"), home=home, name="nano")
    batches = Batches(service, {"/v1/chat/completions": answer}, Files(service), concurrency=4)
    await batches.start()
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_after_kill_9_nothing_that_was_answered_is_asked_again(tmp_path: Path) -> None:
    count, made = 1500, []
    answered: set[str] = set()

    async def begin(house: House) -> None:
        house.gate.clear()
        made.append(await house.create(b"".join(line(f"wait {number}") for number in range(count))))

    async def end(house: House) -> None:
        done = await house.until(made[0], "completed")
        assert set(house.lines(done.output_file_id)) == {f"id wait {number}" for number in range(count)}
        assert not answered & set(house.asked) and len(answered) + len(house.asked) == count

    living(tmp_path, begin)
    output = tmp_path / "batches" / made[0].id / "output.jsonl"
    for rounds in (1, 2):
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path)])
        try:
            until = time.monotonic() + 60
            while not output.exists() or output.read_bytes().count(b"\n") < 150 * rounds:
                assert time.monotonic() < until and victim.poll() is None
                time.sleep(0.005)
        finally:
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait(20)
    answered = {json.loads(raw)["response"]["body"]["said"] for raw in output.read_bytes().splitlines()}
    asked = Counter((tmp_path / "asked").read_text().split("\n"))
    assert 300 <= len(answered) < count
    assert sum(times > 1 for times in asked.values()) <= 4, "only what was under way at the first kill"
    living(tmp_path, end)
