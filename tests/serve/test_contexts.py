"""Contexts over HTTP: read once, asked often, there after a restart; over a scripted engine, and over nano."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from minimax_m1.engine.context import Context
from minimax_m1.engine.context_writer import ContextWriter
from minimax_m1.engine.manifest import read as manifest_of
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.llm import LLM
from minimax_m1.location import locate
from minimax_m1.serve import context_routes
from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.loading import load
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.wire.contexts import ContextReply
from minimax_m1.wire.sse import Event, EventReader

STORY = "The old farmer walked to the river. The code of lamu is 4711.\nIt rained, and rained again.\n"
LONG = STORY * 60
PATH = "/v1/contexts"


class Home:
    """A running server over one home."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def requests(self) -> list[dict[str, Any]]:
        under_way: list[dict[str, Any]] = self.client.get("/v1/requests").json()["data"]
        return under_way

    def create(self, **body: Any) -> Any:
        return self.client.post(PATH, json=body)

    def created(self, **body: Any) -> ContextReply:
        answer = self.create(**body)
        assert answer.status_code == 200, answer.text
        return ContextReply.model_validate_json(answer.content)

    def show(self, id: str) -> ContextReply:
        return ContextReply.model_validate_json(self.client.get(f"{PATH}/{id}").content)

    def ask(self, id: str, question: str, **fields: Any) -> Any:
        return self.client.post(f"{PATH}/{id}/ask", json={"question": question, **fields})

    def stream(self, path: str, **sent: Any) -> list[Event]:
        reader, events = EventReader(), []
        with self.client.stream("POST", path, **sent) as answer:
            assert answer.status_code == 200, answer.read()
            for piece in answer.iter_raw():
                events += reader.feed(piece)
        return events

    def until(self, id: str, *statuses: str) -> ContextReply:
        end = time.monotonic() + 20
        while (reply := self.show(id)).status not in statuses:
            assert time.monotonic() < end, reply
            time.sleep(0.01)
        return reply


class ReadingEngine(ScriptedEngine):
    """A scripted engine that saves what it reads. It can be held, and can fail while it reads."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer) -> None:
        def reply(prompt: Sequence[int]) -> list[int]:
            text = str(tokenizer.decode(list(prompt)))
            said = "<think>\n2+2=4 4\n</think>\n\n4" if "2 + 2" in text else "Hello, how are you?"
            assert tokenizer.eos_token_id is not None
            return [*tokenizer.encode(said), tokenizer.eos_token_id]

        super().__init__(reply, vocab_size=tokenizer.vocab_size, max_model_len=20_000, prefill_chunk=64)
        self.go = threading.Event()
        self.go.set()
        self.stop_after = 10**9  # tokens of one prompt that it reads before it fails
        self.requests: list[Request] = []
        self.reading: dict[str, Request] = {}
        self.saved: dict[str, int] = {}

    def submit(self, request: Request) -> None:
        super().submit(request)
        self.requests.append(request)
        if request.save is not None:
            self.saved[request.id] = 0 if request.past is None else len(request.past.ids)
            self.reading[request.id] = request

    def cancel(self, request_id: str) -> None:
        super().cancel(request_id)
        self.reading.pop(request_id, None)

    def step(self) -> list[TokenEvent]:
        if not self.go.wait(0.01):
            return []
        events = super().step()
        for event in events:
            request = self.reading.get(event.request_id)
            if request is not None and event.prefilled_tokens > self.stop_after:
                self.cancel(request.id)
            elif request is not None:
                self._save(request, event)
        return [event for event in events if event.finish or event.prefilled_tokens <= self.stop_after]

    def _save(self, request: Request, event: TokenEvent) -> None:
        last = event.finish is not None
        ends = range(0, len(request.prompt), request.save_every)
        stops = [each for each in ends if self.saved[request.id] < each <= event.prefilled_tokens]
        for stop in [*stops, *([len(request.prompt)] if last else [])]:
            start, self.saved[request.id] = self.saved[request.id], stop
            ids = torch.tensor(request.prompt[start:stop], dtype=torch.float32)
            state, keys_values = torch.zeros(1, 1, 1), ids.view(1, -1, 1, 1).repeat(2, 1, 1, 1)
            assert request.save is not None
            request.save(Snapshot(start=start, stop=stop, lightning=(state,), keys_values=(keys_values,)))
        if last:
            del self.reading[request.id]


@contextmanager
def home_of(loaded: Loaded, folder: Path, run_app: Any) -> Iterator[Home]:
    app = create_app(lambda: loaded, name="nano", home=folder, body_limit=2**20, upload_limit=6 * 2**20)
    with run_app(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        until(lambda: client.get("/health").status_code == 200)
        yield Home(client)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def engine(tokenizer: Any) -> ReadingEngine:
    return ReadingEngine(tokenizer)


@pytest.fixture
def loaded(engine: ReadingEngine, tokenizer: Any, load_over: Any) -> Loaded:
    made: Loaded = load_over(engine, tokenizer, SamplingParams(temperature=0.0, max_tokens=50))
    return made


@pytest.fixture
def home(loaded: Loaded, tmp_path: Path, run_app: Any) -> Iterator[Home]:
    with home_of(loaded, tmp_path, run_app) as here:
        yield here


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_text_is_read_once_and_asked_as_one_message(home: Home, engine: ReadingEngine, tokenizer: Any) -> None:
    made = home.created(name="book", text=STORY)
    assert (made.id, made.status, made.kind, made.model) == ("book", "ready", "text", "nano")
    assert made.tokens == made.total and made.bytes > 0 and made.sources == ["text"] and made.error is None
    answer = home.ask("book", "What is 2 + 2?", max_output_tokens=100)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["text"], answer.json()["reasoning"]) == ("4", "2+2=4 4")
    message = {"role": "user", "content": f"{STORY.rstrip()}\n\nWhat is 2 + 2?"}
    request = engine.requests[-1]
    assert list(request.prompt) == tokenizer.apply_chat_template([message])
    assert request.past is not None and len(request.past.ids) == made.tokens
    assert request.params.max_tokens == 100 and isinstance(request.past, Context)


def test_an_answer_streams_as_the_native_one(home: Home) -> None:
    home.created(name="book", text=STORY)
    events = home.stream(f"{PATH}/book/ask", json={"question": "What is 2 + 2?", "stream": True})
    assert names(events)[0] == "progress" and names(events)[-1] == "done" and "reasoning" in names(events)
    assert json.loads(events[-1].data)["text"] == "4"


def test_the_same_create_finds_everything_there_and_another_text_is_refused(
    home: Home, engine: ReadingEngine, tmp_path: Path
) -> None:
    first = home.created(name="book", texts={"one": STORY, "two": "The end."})
    read = len(engine.requests)
    assert home.created(name="book", texts={"one": STORY, "two": "The end."}) == first
    assert first.sources == ["one", "two"] and len(engine.requests) == read
    refused = home.create(name="book", text="X" + STORY)
    assert code(refused) == (409, "context_conflict")
    message = refused.json()["error"]["message"]
    assert "the context 'book' holds another text: token" in message and str(tmp_path) not in message
    assert code(home.create(name="book", messages=[{"role": "user", "content": "Hi"}])) == (409, "context_conflict")
    assert home.show("book") == first


def test_a_conversation_is_kept_and_extended(home: Home, engine: ReadingEngine, tokenizer: Any) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!"}]  # fmt: skip
    made = home.created(name="talk", messages=talk)
    assert (made.kind, made.messages, made.sources) == ("chat", 3, [])
    more = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    longer = home.client.post(f"{PATH}/talk/extend", json={"messages": more}).json()
    assert longer["messages"] == 5 and longer["tokens"] > made.tokens
    home.ask("talk", "And 2 + 2?")
    wanted = tokenizer.apply_chat_template([*talk, *more, {"role": "user", "content": "And 2 + 2?"}])
    assert list(engine.requests[-1].prompt) == wanted
    body = {"messages": [{"role": "user", "content": "And 2 + 2?"}], "context_id": "talk"}
    reply = home.client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "4"
    assert list(engine.requests[-1].prompt) == wanted
    assert code(home.client.post(f"{PATH}/talk/extend", json={"text": "words"})) == (409, "context_conflict")


def test_a_context_is_used_in_any_chat_request(
    home: Home, engine: ReadingEngine, tokenizer: Any, tmp_path: Path
) -> None:
    made = home.created(name="book", text=STORY)
    turns = [{"role": "assistant", "content": "4711."}, {"role": "user", "content": "And 2 + 2?"}]
    body = {"messages": [{"role": "user", "content": "Which code?"}, *turns], "context_id": "book"}
    reply = home.client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "4"
    whole = [{"role": "user", "content": f"{STORY.rstrip()}\n\nWhich code?"}, *turns]
    assert list(engine.requests[-1].prompt) == tokenizer.apply_chat_template(whole)
    assert engine.requests[-1].past is not None and len(engine.requests[-1].past.ids) == made.tokens
    native = {"input": "And 2 + 2?", "context_id": "book"}
    assert home.client.post("/v1/minimax-m1/generate", json=native).json()["text"] == "4"
    system = {"messages": [{"role": "system", "content": "x"}, *body["messages"]], "context_id": "book"}
    refused = home.client.post("/v1/chat/completions", json=system)
    assert refused.status_code == 400 and "no system message" in refused.json()["error"]["message"]
    shutil.copytree(tmp_path / "contexts" / "book", tmp_path / "book")  # what lies elsewhere is nobody's
    unknown = home.client.post("/v1/minimax-m1/generate", json={"input": "?", "context_id": "../book"})
    assert code(unknown) == (404, "context_not_found") and unknown.json()["error"]["param"] == "context_id"


def test_progress_is_streamed_and_ends_with_the_context(home: Home) -> None:
    events = home.stream(PATH, json={"name": "book", "text": LONG, "stream": True, "save_every": 256})
    told = [json.loads(event.data) for event in events]
    assert set(names(events[:-1])) == {"progress"} and events[-1].name == "done"
    assert told[0] == {"id": "book", "processed": 0, "total": None}
    read = [each["processed"] for each in told[:-1]]
    assert len(read) > 5 and read == sorted(read) and read[-1] == told[-2]["total"] == told[-1]["tokens"]
    assert home.show("book").model_dump() == told[-1]


def test_a_failure_in_a_stream_is_an_error_event(home: Home) -> None:
    events = home.stream(PATH, json={"name": "book", "text": " \n ", "stream": True})
    assert names(events) == ["progress", "error"] and "text holds no text" in events[-1].data
    assert code(home.client.get(f"{PATH}/book")) == (404, "context_not_found")


def test_a_reading_in_the_background_is_listed_and_followed(home: Home, engine: ReadingEngine) -> None:
    engine.go.clear()
    answer = home.create(text=LONG, background=True)
    assert answer.status_code == 202
    id = answer.json()["id"]
    assert id.startswith("ctx_") and answer.json()["status"] == "reading"
    [request] = home.requests()
    assert (request["kind"], request["context_id"]) == ("context", id)
    assert code(home.create(name=id, text=LONG)) == (409, "context_busy")
    refused = home.client.delete(f"{PATH}/{id}")
    assert code(refused) == (409, "context_busy") and f"cancel 'reading-{id}' first" in refused.text
    assert [each["id"] for each in home.client.get(PATH).json()["data"]] == [id]
    engine.go.set()
    assert home.until(id, "ready", "failed").status == "ready"
    assert home.requests() == []


def test_a_reading_in_the_background_that_fails_says_why(home: Home, engine: ReadingEngine) -> None:
    assert home.create(name="none", text=" ", background=True).status_code == 202
    failed = home.until("none", "failed")
    assert failed.error == "text holds no text" and failed.tokens == 0 and failed.created > 1e9
    engine.stop_after = 600
    home.create(name="half", text=LONG, background=True, save_every=256)
    half = home.until("half", "failed")
    assert half.error == "the reading was cancelled" and half.tokens == 512
    assert [each["status"] for each in home.client.get(PATH).json()["data"]] == ["failed", "failed"]
    assert code(home.ask("half", "why?")) == (409, "context_not_ready")
    engine.stop_after = 10**9
    whole = home.created(name="half", text=LONG)
    assert (whole.status, whole.error) == ("ready", None)
    assert len(engine.requests[-1].past.ids) == 512, "what was read is not read again"
    assert home.client.delete(f"{PATH}/none").json() == {"id": "none", "object": "context.deleted", "deleted": True}
    assert code(home.client.get(f"{PATH}/none")) == (404, "context_not_found")


def test_two_creates_at_once_of_one_name(home: Home, engine: ReadingEngine) -> None:
    engine.go.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(home.create, name="book", text=LONG) for _ in range(2)]
        [first] = concurrent.futures.wait(answers, return_when=concurrent.futures.FIRST_COMPLETED).done
        assert code(first.result()) == (409, "context_busy")
        engine.go.set()
        assert sorted(answer.result().status_code for answer in answers) == [200, 409]
    assert home.show("book").status == "ready"


def test_a_client_that_leaves_ends_the_reading_and_the_same_request_goes_on(home: Home, engine: ReadingEngine) -> None:
    body = {"name": "book", "text": LONG, "save_every": 256}
    held = threading.Event()

    def hold(snapshot: Snapshot, save: Any) -> None:
        save(snapshot)
        engine.go.clear()
        held.set()

    submit = engine.submit

    def submitting(request: Request) -> None:
        save = request.save
        submit(replace(request, save=lambda snapshot: hold(snapshot, save)))

    engine.submit = submitting  # type: ignore[method-assign]
    with pytest.raises(httpx2.ReadTimeout):
        home.client.post(PATH, json=body, timeout=1.0)
    assert held.wait(5)
    until(lambda: home.requests() == [])
    engine.submit = submit  # type: ignore[method-assign]
    engine.go.set()
    half = home.show("book")
    assert (half.status, half.tokens) == ("incomplete", 256)
    assert home.created(**body).status == "ready"
    assert len(engine.requests[-1].past.ids) == 256


def test_a_reading_can_be_cancelled_by_its_id(home: Home, engine: ReadingEngine) -> None:
    engine.go.clear()
    home.create(name="book", text=LONG, background=True)
    until(lambda: any(request["prompt_tokens"] for request in home.requests()))
    assert home.client.delete("/v1/requests/reading-book").status_code == 200
    engine.go.set()
    assert home.until("book", "failed").error == "the reading of the context 'book' was cancelled"


def test_a_server_that_closes_lets_go_of_its_readings(
    engine: ReadingEngine, loaded: Loaded, tmp_path: Path, run_app: Any
) -> None:
    with home_of(loaded, tmp_path, run_app) as home:
        engine.go.clear()
        home.create(name="book", text=LONG, background=True)
        until(lambda: any(request["prompt_tokens"] for request in home.requests()))
    engine.go.set()
    with home_of(loaded, tmp_path, run_app) as again:
        assert again.show("book").status == "incomplete"
        assert again.created(name="book", text=LONG).status == "ready"


def test_a_server_closes_while_a_text_is_still_being_encoded(
    loaded: Loaded, tmp_path: Path, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, encode = threading.Event(), context_routes.text_ids

    def late(*arguments: Any, **limits: Any) -> Any:
        assert go.wait(20)
        return encode(*arguments, **limits)

    monkeypatch.setattr(context_routes, "text_ids", late)
    with home_of(loaded, tmp_path, run_app) as home:
        assert home.create(name="book", text=STORY, background=True).json()["status"] == "reading"
        assert home.show("book").total is None
    go.set()
    with home_of(loaded, tmp_path, run_app) as again:
        assert code(again.client.get(f"{PATH}/book")) == (404, "context_not_found")


def test_more_is_read_at_the_end_and_a_branch_stays_as_it_was(
    home: Home, engine: ReadingEngine, tokenizer: Any
) -> None:
    made = home.created(name="book", text=STORY)
    branch = home.client.post(f"{PATH}/book/branch", json={"name": "other"}).json()
    assert branch["id"] == "other" and branch["tokens"] == made.tokens
    assert home.client.post(f"{PATH}/book/branch").json()["id"].startswith("ctx_")
    assert code(home.client.post(f"{PATH}/book/branch", json={"name": "other"})) == (409, "context_conflict")
    assert code(home.client.post(f"{PATH}/none/branch", json={"name": "x"})) == (404, "context_not_found")
    for _ in range(2):  # the second one adds nothing
        longer = home.client.post(f"{PATH}/other/extend", json={"texts": {"more": "A second story.\n"}}).json()
        assert longer["sources"] == ["text", "more"]
    assert len(engine.requests[-1].past.ids) == made.tokens
    home.ask("other", "why?")
    whole = f"{STORY.rstrip()}\n\nA second story.\n\nwhy?"
    assert list(engine.requests[-1].prompt) == tokenizer.apply_chat_template([{"role": "user", "content": whole}])
    assert home.show("book") == made
    assert code(home.client.post(f"{PATH}/none/extend", json={"text": "x"})) == (404, "context_not_found")


def test_a_context_that_is_being_asked_is_not_deleted(home: Home, engine: ReadingEngine) -> None:
    home.created(name="book", text=STORY)
    home.created(name="other", text=STORY)
    engine.go.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(home.ask, "book", "What is 2 + 2?")
        until(lambda: len(home.requests()) == 1)
        refused = home.client.delete(f"{PATH}/book")
        assert code(refused) == (409, "context_busy") and "is being asked" in refused.text
        assert home.client.delete(f"{PATH}/other").status_code == 200
        engine.go.set()
        assert asked.result().status_code == 200
    assert home.client.delete(f"{PATH}/book").status_code == 200
    assert code(home.client.delete(f"{PATH}/book")) == (404, "context_not_found")
    assert home.client.get(PATH).json() == {"object": "list", "data": []}


def test_a_file_of_5_mb_is_uploaded_in_pieces(home: Home, engine: ReadingEngine, tmp_path: Path) -> None:
    boundary = "b"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\nbook\r\n--{boundary}\r\n'
        'Content-Disposition: form-data; name="file"; filename="story.txt"\r\n\r\n'
    )
    white = b" \n" * (5 * 2**19)  # at the end of a text it is dropped
    whole = head.encode() + LONG.encode() + white + f"\r\n--{boundary}--\r\n".encode()
    pieces = [whole[i : i + 7777] for i in range(0, len(whole), 7777)]
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = home.client.post(PATH, content=iter(pieces), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["sources"] == ["story.txt"] and answer.json()["id"] == "book"
    assert home.created(name="book", text=LONG).tokens == answer.json()["tokens"], "it is the same text"
    assert list((tmp_path / "files").iterdir()) == []


def test_a_large_upload_is_refused_by_tokens_or_by_bytes_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    five = b"word " * 2**20
    answer = home.client.post(PATH, files={"file": ("big.txt", five)}, data={"name": "big"})
    assert code(answer) == (400, "context_length_exceeded") and "20,000 tokens or more" in answer.text
    answer = home.client.post(PATH, files={"file": ("big.txt", five * 2)})
    assert code(answer) == (413, "body_too_large")
    for data in ({"stream": "perhaps"}, {"colour": "red"}, {"name": "../x"}):
        answer = home.client.post(PATH, files={"file": ("a.txt", b"words")}, data=data)
        assert answer.status_code == 400 and answer.json()["error"]["param"] in data
    answer = home.client.post(PATH, files={"file": ("a.bin", b"\xff\xfe")}, data={"name": "a"})
    assert answer.status_code == 400 and "a.bin is not UTF-8" in answer.text
    sent = {"file": ("a.txt", b"words")}
    assert home.client.post(PATH, files=sent, data={"model": "other"}).status_code == 404
    assert home.client.post(f"{PATH}/none/extend", files=sent).status_code == 404
    assert list((tmp_path / "files").iterdir()) == []
    assert home.client.get(PATH).json()["data"] == []


def test_an_upload_streams_and_extends(home: Home, tmp_path: Path) -> None:
    sent: Any = {"files": {"file": ("one.txt", STORY.encode())}, "data": {"name": "book", "stream": "true"}}
    events = home.stream(PATH, **sent)
    assert events[-1].name == "done"
    more = home.client.post(f"{PATH}/book/extend", files={"file": ("two.txt", b"The end.")})
    assert more.status_code == 200 and more.json()["sources"] == ["one.txt", "two.txt"]
    sent["data"]["background"] = "true"
    assert home.client.post(PATH, **sent).status_code == 400
    held = home.client.post(PATH, files=sent["files"], data={"name": "later", "background": "true"})
    assert held.status_code == 202 and home.until("later", "ready", "failed").status == "ready"
    until(lambda: list((tmp_path / "files").iterdir()) == [])


def test_a_file_that_was_uploaded_before_is_read_by_its_id(home: Home) -> None:
    sent: Any = {"files": {"file": ("story.txt", STORY.encode())}, "data": {"purpose": "user_data"}}
    file = home.client.post("/v1/files", **sent).json()
    made = home.created(name="book", file_id=file["id"])
    assert made.sources == ["story.txt"] and made.status == "ready"
    assert home.create(name="x", file_id="file-none").status_code == 404


def test_bad_bodies_are_named(home: Home) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "text"),
        ({"text": "a", "texts": {"b": "c"}}, "text"),
        ({"text": ""}, "text"),
        ({"text": "a", "name": ".."}, "name"),
        ({"text": "a", "name": "a/b"}, "name"),
        ({"text": "a", "name": ".hidden"}, "name"),
        ({"text": "a", "name": "x" * 65}, "name"),
        ({"text": "a", "save_every": 1}, "save_every"),
        ({"text": "a", "stream": True, "background": True}, "background"),
        ({"text": "a", "colour": "red"}, "colour"),
        ({"messages": []}, "messages"),
    ]
    for body, param in cases:
        answer = home.create(**body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_unknown_names_and_empty_questions(home: Home) -> None:
    for id in ("none", "%2e%2e", ".hidden", "x" * 65, "a%00b", "a%20b"):
        for answer in (home.client.get(f"{PATH}/{id}"), home.client.delete(f"{PATH}/{id}"), home.ask(id, "why?")):
            assert answer.status_code == 404
    home.created(name="book", text=STORY)
    assert home.ask("book", "").status_code == 400
    assert home.ask("book", "why?", temperature=-1).json()["error"]["param"] == "temperature"
    assert home.create(text="a", model="other").status_code == 404


def test_another_models_contexts_are_refused(home: Home, loaded: Loaded, tmp_path: Path, run_app: Any) -> None:
    home.created(name="book", text=STORY)
    changes: Any = ({"fingerprint": "e" * 64}, {"dtype": "bfloat16"})
    for change in changes:
        with home_of(replace(loaded, **change), tmp_path, run_app) as other:
            refused = other.ask("book", "why?")
            assert code(refused) == (409, "context_conflict") and str(tmp_path) not in refused.text
            assert code(other.create(name="book", text=STORY)) == (409, "context_conflict")
            assert other.show("book").status == "ready"


def test_a_damaged_context_is_told_and_can_be_deleted(home: Home, tmp_path: Path) -> None:
    home.created(name="book", text=STORY)
    home.created(name="cut", text=STORY)
    folder = tmp_path / "contexts"
    next((folder / "book").glob("part-*")).unlink()
    (folder / "cut" / "manifest.json").write_text("{")
    assert code(home.ask("book", "why?")) == (500, "context_damaged")
    assert home.show("cut").status == "failed" and "is cut, or no manifest" in str(home.show("cut").error)
    assert [each["status"] for each in home.client.get(PATH).json()["data"]] == ["ready", "failed"]
    for id in ("book", "cut"):
        assert home.client.delete(f"{PATH}/{id}").status_code == 200


def test_a_name_that_something_else_lies_under_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "contexts" / "mine").mkdir(parents=True)
    (tmp_path / "contexts" / "mine" / "letter.txt").write_text("dear")
    refused = home.create(name="mine", text=STORY)
    assert code(refused) == (409, "context_conflict") and "'letter.txt' and no context" in refused.text
    assert home.client.delete(f"{PATH}/mine").status_code == 404


@pytest.fixture(scope="module")
def nano() -> Loaded:
    return load(locate("nano"), dtype="auto", device="cpu", max_model_len=None)


def test_nano_answers_from_what_it_read_before_a_restart(nano: Loaded, tmp_path: Path, run_app: Any) -> None:
    text = STORY + "The sky is blue. " * 150
    greedy = {"temperature": 0, "max_output_tokens": 20}
    with home_of(nano, tmp_path, run_app) as here:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reading = pool.submit(here.created, name="book", text=text, save_every=256)
            said = here.client.post(
                "/v1/minimax-m1/generate", json={"input": "What is 17 + 25?", "temperature": 0}
            ).json()
        assert "42" in said["text"]
        tokens = reading.result().tokens
    with home_of(nano, tmp_path, run_app) as again:
        assert again.show("book").status == "ready" and again.created(name="book", text=text).tokens == tokens
        reply = again.ask("book", "What is the code of lamu?", **greedy).json()
        assert "4711" in reply["text"] and reply["usage"]["cached_tokens"] == tokens
        message = {"role": "user", "content": f"{text.rstrip()}\n\nWhat is the code of lamu?"}
        body = {"messages": [message], "temperature": 0, "max_tokens": 20}
        whole = again.client.post("/v1/chat/completions", json=body).json()
        assert whole["choices"][0]["message"]["content"] == reply["text"]
        assert whole["usage"]["prompt_tokens"] == reply["usage"]["input_tokens"]


def test_contexts_of_the_command_line_and_of_the_server_are_the_same(
    nano: Loaded, tmp_path: Path, run_app: Any
) -> None:
    llm = LLM("nano")
    llm.create_context(tmp_path / "contexts" / "mine", {"story.txt": STORY})
    greedy = {"temperature": 0, "max_output_tokens": 20}
    with home_of(nano, tmp_path, run_app) as here:
        assert "4711" in here.ask("mine", "What is the code of lamu?", **greedy).json()["text"]
        assert here.created(name="mine", text=STORY).sources == ["story.txt"], "it is there already"
        here.created(name="theirs", text=STORY)
    [output] = llm.ask(
        tmp_path / "contexts" / "theirs", "What is the code of lamu?", SamplingParams(temperature=0, max_tokens=20)
    )
    assert "4711" in output.outputs[0].content and output.cached_tokens > 20


def test_nano_goes_on_with_a_reading_that_a_stop_cut_short(
    nano: Loaded, tmp_path: Path, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, save = STORY * 100, ContextWriter.save

    def slowly(writer: ContextWriter, snapshot: Snapshot) -> None:
        save(writer, snapshot)
        time.sleep(0.2)

    with home_of(nano, tmp_path, run_app) as here, monkeypatch.context() as patch:
        patch.setattr(ContextWriter, "save", slowly)
        here.create(name="book", text=text, background=True, save_every=256)
        until(lambda: here.show("book").tokens > 0)
    half = manifest_of(tmp_path / "contexts" / "book").tokens
    with home_of(nano, tmp_path, run_app) as again:
        assert 0 < half < (again.show("book").total or 0)
        assert again.show("book").status == "incomplete"
        events = again.stream(PATH, json={"name": "book", "text": text, "stream": True})
        assert json.loads(events[1].data)["processed"] == half and events[-1].name == "done"
        greedy = {"temperature": 0, "max_output_tokens": 20}
        assert "4711" in again.ask("book", "What is the code of lamu?", **greedy).json()["text"]
