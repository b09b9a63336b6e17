"""schemathesis against the whole OpenAPI document: no 5xx, no hang, no answer that its schema does not describe.

The model is scripted and says little. What is uploaded, stored and begun stays between requests, as on a real server,
and half of the requests name such a thing where a path wants an id. They are the same on every run.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from minimax_m1.engine.request import Request, SamplingParams
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.serve.app import create_app

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SECONDS = 10  # an answer that takes longer is taken for a hang


class Careless(ScriptedEngine):
    """Drops what a reply's form asks, which a script cannot follow."""

    def submit(self, request: Request) -> None:
        super().submit(replace(request, guide=None))


@pytest.fixture
def document(run_app: Any, load_over: Any, tokenizer: Any, tmp_path: Any) -> Iterator[Any]:
    """The document of a running server, as schemathesis reads it."""

    @schemathesis.deserializer("text/event-stream")
    def _(context: Any, response: Response) -> str:
        return response.text  # to the document a stream of events is a string

    said = [*tokenizer.encode("<think>\nSo.\n</think>\n\nYes."), tokenizer.eos_token_id]
    engine = Careless(lambda _: said, vocab_size=tokenizer.vocab_size)
    loaded = load_over(engine, tokenizer, SamplingParams(temperature=0.0, max_tokens=64))
    with run_app(create_app(lambda: loaded, name="nano", home=tmp_path)) as url, httpx2.Client(base_url=url) as client:
        while client.get("/health").status_code != 200:
            pass
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def fuzz(document: Any, examples: int) -> Counter[int]:
    """So many well-formed requests of every operation, and as many that break its schema; how often which status."""
    statuses: Counter[int] = Counter()
    known: dict[str, list[str]] = {}  # ids that the server told, by the first words of the path

    def send(case: Case[Any]) -> None:
        kept, sent = known.setdefault("/".join(case.path.split("/")[:3]), []), statuses.total()
        if case.path_parameters and kept and sent % 2:
            case.path_parameters = {name: kept[sent % len(kept)] for name in case.path_parameters}
        if isinstance(case.body, dict) and "model" in case.body and sent % 4:
            case.body["model"] = "nano"  # a made-up name gets 404 before anything else is looked at
        response = case.call(timeout=SECONDS)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        if response.status_code == 200 and "json" in response.headers["content-type"][0]:
            told = response.json()
            if isinstance(told, dict) and isinstance(told.get("id"), str):
                kept.append(told["id"])

    quiet = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in document.get_all_operations():
        one = operation.ok()
        quiet(given(case=one.as_strategy(GenerationMode.POSITIVE))(send))()
        with contextlib.suppress(Unsatisfiable):  # an operation that asks for nothing has no schema to break
            quiet(given(case=one.as_strategy(GenerationMode.NEGATIVE))(send))()
    return statuses


def test_a_few_requests_of_every_operation_are_answered_as_the_document_says(document: Any) -> None:
    statuses = fuzz(document, 2)
    assert statuses[200] >= 8 and statuses[400] >= 40, statuses


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_requests_are_answered_as_the_document_says(document: Any) -> None:
    statuses = fuzz(document, 100)
    assert statuses.total() > 3000 and statuses[200] > 200, statuses
