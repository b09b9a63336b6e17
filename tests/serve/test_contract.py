"""openapi.json is what the server says of itself. Run as a program, this file prints it: `make openapi`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Loaded

COMMITTED = Path(__file__).parents[2] / "openapi.json"


def never() -> Loaded:
    raise AssertionError("the document needs no model")


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        told: dict[str, Any] = create_app(never, name="nano", home=Path(home)).openapi()
    return told


def refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for each in value.values() for ref in refs(each)]
    return [ref for each in value for ref in refs(each)] if isinstance(value, list) else []


def test_the_committed_document_is_the_server_s() -> None:
    assert json.loads(COMMITTED.read_text("utf-8")) == document(), "run `make openapi` and look at the difference"


def test_every_operation_has_a_name_of_its_own_and_every_reference_a_schema() -> None:
    told = document()
    operations = [each for path in told["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations) > 35
    assert {ref.rpartition("/")[2] for ref in refs(told)} <= told["components"]["schemas"].keys()


if __name__ == "__main__":
    print(json.dumps(document(), indent=1, sort_keys=True))
