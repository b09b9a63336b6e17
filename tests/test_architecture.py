"""The constitution: what a file may import, how long it may be, what it may do when imported.

Plain `ast` over the sources, so it needs nothing installed. The tables are DESIGN.md's floors.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "minimax_m1"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room is a folder, or a file that lies beside the folders.
FLOORS = {
    "config": 0, "presets": 0, "errors": 0, "location": 0,
    "text": 1, "wire": 1, "tasks": 1, "kernels": 1,
    "model": 2, "client": 2,
    "parallel": 3,
    "engine": 4,
    "llm": 5, "export": 5, "serve": 5, "gateway": 5, "train": 5,
    "agent": 6, "eval": 6, "ui": 6,
    "cli": 7, "__main__": 8,
}  # fmt: skip

# What a room may never import, however low it lies. `lazy` allows it inside a function.
BANS = {
    "config": {"torch"}, "presets": {"torch"}, "errors": {"torch"}, "location": {"torch"},
    "wire": {"torch"}, "tasks": {"torch"}, "client": {"torch"}, "gateway": {"torch"},
    "engine": {"minimax_m1.text"},
    "agent": {"minimax_m1.engine"},
    "ui": {"minimax_m1.engine"},
}  # fmt: skip
NOT_AT_IMPORT = {"text": {"torch"}, "cli": {"torch", "fastapi"}}
ONLY = {"kernels": {"minimax_m1.kernels", "minimax_m1.errors"}}  # all that a room may import of ours
ATTICS = {"utils", "util", "common", "helpers", "helper", "misc"}

# Calls that a module may make while it loads: they build a value and touch nothing outside.
PURE_CALLS = {
    "bytes", "chr", "dict", "enumerate", "frozenset", "len", "list", "map", "max", "min", "range", "set", "sorted",
    "sum", "tuple", "zip",
    "ParamSpec", "TypeVar", "NewType", "MappingProxyType", "Path", "re.compile", "logging.getLogger",
    "dataclass", "field", "lru_cache", "wraps", "torch.inference_mode", "torch.no_grad",
    "BeforeValidator", "AfterValidator", "ConfigDict", "Field", "TypeAdapter", "field_validator", "model_validator",
    "ContextVar",  # the name of a value that each task has for itself
    "njit",  # wraps, and compiles at the first call
    "words",  # ours, and nothing but arithmetic on text
    "typer.Typer", "typer.Option", "typer.Argument", "app.command", "app.callback", "app.add_typer", "train.command",
}  # fmt: skip
PURE_METHODS = {"split", "join", "strip", "format", "encode", "keys", "values", "items", "union", "lower"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def room_of_module(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "minimax_m1" and len(parts) > 1 else None


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imports(node: ast.AST, path: Path) -> Iterator[str]:
    """Every module imported anywhere under `node`, those for type checkers included, as absolute names."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}:{child.lineno}: imports are absolute here"
            assert child.module is not None
            if child.module == "minimax_m1":
                yield from (f"minimax_m1.{alias.name}" for alias in child.names)
            else:
                yield child.module


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run, or that type checkers follow, when the module loads: function bodies do not."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, *child.args.defaults, *filter(None, child.args.kw_defaults)):
                yield part
                yield from at_import(part)
        elif not isinstance(child, ast.Lambda):
            yield from at_import(child)


def under(module: str, banned: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in banned)


def violations(path: Path, tree: ast.Module) -> Iterator[str]:
    """What `path` imports and may not, one sentence each."""
    here = room(path)
    for module in imports(tree, path):
        there = room_of_module(module)
        if there is not None and there != here:
            if there not in FLOORS:
                yield f"imports {module}, which has no floor"
            elif FLOORS[there] >= FLOORS[here] and not FLOORS[there] == FLOORS[here] == 0:  # F0 is one room
                yield f"imports {module}: floor {FLOORS[there]} is not below {here}'s floor {FLOORS[here]}"
        if under(module, BANS.get(here, set())):
            yield f"imports {module}, which {here} never may"
        if there is not None and here in ONLY and not under(module, ONLY[here]):
            yield f"imports {module}, but {here} may import of ours only {sorted(ONLY[here])}"
    for node in at_import(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in imports(node, path):
                if under(module, NOT_AT_IMPORT.get(here, set())):
                    yield f"imports {module} at import; {here} may only inside a function"


def impure(tree: ast.Module) -> Iterator[str]:
    """Calls made while the module loads that PURE_CALLS and PURE_METHODS do not allow, and loose statements."""
    for loose in tree.body:
        if isinstance(loose, ast.For | ast.While | ast.With | ast.Try | ast.Delete | ast.Global):
            yield f"line {loose.lineno}: a {type(loose).__name__.lower()} statement at module level"
    main_guard = [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    records = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}  # to build one of ours is pure
    for known in tree.body:
        if isinstance(known, ast.ImportFrom) and (known.module or "").startswith("minimax_m1."):
            records |= {alias.name for alias in known.names if alias.name[0].isupper()}
    for node in at_import(ast.Module([node for node in tree.body if node not in main_guard], [])):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            method = isinstance(node.func, ast.Attribute) and node.func.attr in PURE_METHODS
            if not method and called not in PURE_CALLS | records:
                yield f"line {node.lineno}: {called}(...) runs at import"


def source(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [path for path in FILES if path != PACKAGE / "__init__.py"], ids=source)
def test_imports_go_down(path: Path) -> None:
    assert room(path) in FLOORS, f"{room(path)} has no floor; DESIGN.md and this table decide it"
    assert not list(violations(path, parse(path)))


@pytest.mark.parametrize("path", FILES, ids=source)
def test_nothing_happens_at_import(path: Path) -> None:
    assert not list(impure(parse(path)))


@pytest.mark.parametrize("path", FILES, ids=source)
def test_a_file_is_short_and_says_what_it_owns(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert text == "" or path.parent.name in ("client", "kernels", "llm"), "an __init__.py in a folder is empty"
        return
    head = ast.get_docstring(parse(path)) or ""
    assert head, "a file opens with a docstring: what it owns, what comes in, what goes out"
    lines = text.count("\n")
    assert lines <= 400 or "longer than 400 lines because" in " ".join(head.split()), f"{lines} lines"


def test_no_attics() -> None:
    names = {part for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & ATTICS


def test_each_op_has_a_reference_and_a_test() -> None:
    ops = sorted(path.parent for path in (PACKAGE / "kernels").glob("*/__init__.py"))
    assert ops
    for op in ops:
        assert (op / "reference.py").is_file(), f"kernels/{op.name} has no reference.py"
        assert (ROOT / "tests" / "kernels" / f"test_{op.name}.py").is_file(), f"no tests/kernels/test_{op.name}.py"


def test_importing_the_package_loads_no_torch() -> None:
    heavy = {"torch", "numpy", "tokenizers", "pydantic"}
    script = f"import sys, minimax_m1; sys.exit(sorted({heavy!r} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("model/x.py", "from minimax_m1.engine.request import Request", "floor 4 is not below"),
        ("text/x.py", "from minimax_m1.wire.sse import encode", "floor 1 is not below"),
        ("engine/x.py", "def f():\n    import minimax_m1.text.tokenizer", "engine never may"),
        ("wire/x.py", "def f():\n    import torch.nn", "wire never may"),
        ("config.py", "from torch import Tensor", "config never may"),
        ("text/x.py", "import torch", "only inside a function"),
        ("kernels/rope/x.py", "from minimax_m1.config import MiniMaxM1Config", "only ['minimax_m1.errors'"),
        ("model/x.py", "if TYPE_CHECKING:\n    from minimax_m1.llm import LLM", "floor 5 is not below"),
    ],
)
def test_the_constitution_bites(file: str, text: str, says: str) -> None:
    assert any(says in sentence for sentence in violations(PACKAGE / file, ast.parse(text)))


@pytest.mark.parametrize("text", ["def f():\n    import torch", "from minimax_m1.errors import ConfigError"])
def test_the_constitution_lets_good_imports_be(text: str) -> None:
    assert not list(violations(PACKAGE / "text/x.py", ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    ["print(1)", "X = open('x')", "def f(x=print()):\n    pass", "class A:\n    y = run()", "for x in y:\n    pass"],
)
def test_side_effects_at_import_are_seen(text: str) -> None:
    assert list(impure(ast.parse(text)))
