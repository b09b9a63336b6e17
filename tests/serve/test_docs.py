"""The docs load nothing from elsewhere."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from minimax_m1.serve.docs import docs_file, docs_page
from minimax_m1.wire.errors import Fault

APP = Starlette(routes=[Route("/docs", docs_page), Route("/docs/{file}", docs_file)])


def get(path: str) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=APP)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as http:
            return await http.get(path)

    return asyncio.run(ask())


def references(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]*)"', page)


def test_the_page_names_no_foreign_url_and_all_that_it_names_is_there() -> None:
    page = get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text and '"//' not in page.text
    own = [each for each in references(page.text) if not each.startswith("data:")]
    assert len(own) == 3
    for each in own:
        file = get("/" + each)  # relative to /docs
        assert file.status_code == 200 and file.content
        assert "immutable" in file.headers["cache-control"]
        kind = "text/css" if ".css" in each else "text/javascript"
        assert file.headers["content-type"].startswith(kind) and file.headers["x-content-type-options"] == "nosniff"


def test_the_script_asks_for_our_document_and_sends_it_nowhere() -> None:
    script = get("/docs/start.js").text
    assert "openapi.json" in script and "validatorUrl: null" in script
    assert "//" not in script


def test_the_policy_forbids_every_other_origin_and_scripts_in_the_page() -> None:
    page = get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy and "connect-src" not in policy  # so they are the default
    assert "http" not in page.headers["content-security-policy"] and "*" not in page.headers["content-security-policy"]
    assert all('src="' in tag for tag in re.findall(r"<script[^>]*>", page.text))
    assert page.headers["cache-control"] == "no-cache"


def test_the_style_sheet_loads_nothing() -> None:
    style = get("/docs/swagger-ui.css").text
    assert "@import" not in style
    assert all(each.startswith("data:") for each in re.findall(r"url\([\"']?([^)]{5})", style))


@pytest.mark.parametrize("name", ["LICENSE", "start", "nothing.js"])
def test_nothing_else_is_told(name: str) -> None:
    with pytest.raises(Fault, match="behind the docs"):
        get(f"/docs/{name}")


def test_the_version_is_that_of_the_files() -> None:
    page = get("/docs").text
    [version] = set(re.findall(r"\?v=([\d.]+)", page))
    bundle = files("minimax_m1") / "assets" / "swagger" / "swagger-ui-bundle.js"
    assert version in bundle.read_text("utf-8")
    for notice in ("LICENSE", "NOTICE"):
        assert (files("minimax_m1") / "assets" / "swagger" / notice).is_file()
