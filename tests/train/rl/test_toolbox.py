"""Methods as tools: their schemas are those of transformers, and a call must fit them."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from minimax_m1.train.rl.toolbox import call, definitions, error_text, text_of
from minimax_m1.train.rl.worker import Broken, loaded


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a user's file puts its folder on the path, here only for one test."""
    monkeypatch.setattr(sys, "path", [*sys.path])


class Base:
    def inherited(self, values: list[int], pair: tuple[int, str]) -> str:
        """Is inherited.

        It has a second paragraph,
        of two lines.

        Args:
            values: Numbers: as many as
                you like.
            pair: A number and a text.

        Returns:
            Nothing of use.
        """
        return f"{values} {pair}"


class Tools(Base):
    """Not a tool itself."""

    state: int = 0

    def reset(self, seed: int) -> None: ...

    def get_reward(self) -> float:
        return 1.0

    def many(
        self,
        number: float,
        flag: bool,
        either: int | str,
        maybe: Optional[int] = None,  # noqa: UP045 - both spellings must be read
        mode: Literal["a", "b"] = "a",
        table: dict[str, list[float]] | None = None,
        mixed: list[int] | str = "",
        anything: Any = None,
        plain: list = [],  # type: ignore[type-arg]  # noqa: B006
    ) -> dict[str, Any]:
        """Takes many kinds.

        Args:
            number: A number.
            flag: A flag.
            either: One of two.
            maybe: Perhaps.
            mode: A mode.
            table: A table.
            mixed: A mixture.
            anything: Anything.
            plain: A list.
        """
        return {"number": number}

    def none(self) -> None:
        """Takes nothing."""

    def _private(self) -> None: ...


def test_definitions_are_those_of_transformers() -> None:
    judge = pytest.importorskip("transformers.utils.chat_template_utils").get_json_schema
    mine = definitions(Tools, __file__)
    assert [tool["name"] for tool in mine] == ["inherited", "many", "none"]
    for tool in mine:
        theirs = judge(getattr(Tools, tool["name"]))["function"]
        theirs.pop("return", None)
        assert tool == theirs


MANY = {"number": 1, "flag": False, "either": "x"}


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("many", MANY, None),
        ("many", MANY | {"number": 1.5, "either": 2, "maybe": None, "mode": "b", "mixed": [1], "plain": [{}]}, None),
        ("many", MANY | {"table": {"a": [1, 2.5]}, "anything": {"x": None}}, None),
        ("many", MANY | {"number": True}, "number must be number, got true"),
        ("many", MANY | {"number": None}, "number must be number, got null"),
        ("many", MANY | {"flag": 1}, "flag must be boolean, got 1"),
        ("many", MANY | {"either": 1.5}, 'either must be {"type": ["integer", "string"]}, got 1.5'),
        ("many", MANY | {"maybe": "1"}, 'maybe must be {"type": "integer", "nullable": true}, got "1"'),
        ("many", MANY | {"mode": "c"}, 'mode must be one of ["a", "b"], got "c"'),
        ("many", MANY | {"table": {"a": ["1"]}}, "table must be"),
        ("many", MANY | {"mixed": ["1"]}, "mixed must be"),
        ("many", MANY | {"plain": "x" * 100}, 'plain must be array, got "' + "x" * 78 + "…"),
        ("inherited", {"values": [], "pair": [1, "a"]}, None),
        ("inherited", {"values": [1, None], "pair": [1, "a"]}, "values must be"),
        ("inherited", {"values": [], "pair": [1]}, "pair must be"),
        ("inherited", {"values": []}, "inherited needs 'pair'"),
        ("none", {"x": 1}, "none takes no 'x', but nothing"),
        ("none", None, "the arguments of none must be an object, got null"),
        ("_private", {}, "there is no tool '_private', there are inherited, many, none"),
    ],
)
def test_a_call_must_fit_the_schema(name: str, arguments: Any, told: str | None) -> None:
    tools = {tool["name"]: tool for tool in definitions(Tools, __file__)}
    if told is None:
        call(Tools(), tools, name, arguments)
        return
    with pytest.raises(ValueError) as caught:
        call(Tools(), tools, name, arguments)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("def f(self, x: int): ...", "the tool f needs a docstring, which tells the model what it does"),
        ("def f(self, x): 'doc'", "the argument 'x' of the tool f needs a type hint"),
        ("def f(self, *x: int): 'doc'", "the tool f must take its arguments by name, it has *x: int"),
        ("def f(self, x: bytes): 'doc'", "the argument 'x' of the tool f: bytes is nothing that JSON can hold"),
        ("def f(self, x: list[object]): 'doc'", "the argument 'x' of the tool f: object is nothing that JSON can hold"),
        ("def f(self, x: 'Nowhere'): 'doc'", "the tool f: name 'Nowhere' is not defined"),
    ],
)
def test_a_method_that_is_no_tool_is_named_with_its_line(method: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "hidden_tools.py"
    path.write_text(f"class Mine:\n\n    {method}\n", "utf-8")
    with pytest.raises(Broken) as caught:
        definitions(loaded(str(path)).Mine, str(path))
    assert (str(caught.value), caught.value.line) == (told, 3)


def test_arguments_need_no_notes_and_static_methods_are_tools(tmp_path: Path) -> None:
    path = tmp_path / "static_tools.py"
    code = """
    class Mine:
        @staticmethod
        def double(x: int) -> int:
            "Doubles."
            return 2 * x
    """
    path.write_text(textwrap.dedent(code), "utf-8")
    kind = loaded(str(path)).Mine
    (tool,) = definitions(kind, str(path))
    expected = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    assert tool == {"name": "double", "description": "Doubles.", "parameters": expected}
    assert call(kind(), {"double": tool}, "double", {"x": 4}) == 8


def test_results_and_errors_as_text() -> None:
    assert [text_of(one) for one in ("né", None, 1.0, {"é": [True]})] == ["né", "null", "1.0", '{"é": [true]}']
    assert text_of({1}) == "{1}"
    assert error_text(ValueError("no")) == "error: no"
    assert error_text(ValueError()) == "error: ValueError"
