"""Environments of a user's file: tools and own words, and everything that strangers' code may do to a conversation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.rl import process
from minimax_m1.train.rl.environment import EnvironmentFault, Environments
from minimax_m1.train.rl.environment_file import environments_of

Opener = Callable[..., Environments]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Opener]:
    """Writes a file and opens its environments; closed afterwards."""
    opened: list[Environments] = []

    def open_environments(code: str, spec: str = "my_env.py", **options: Any) -> Environments:
        (tmp_path / "my_env.py").write_text(textwrap.dedent(code), "utf-8")
        opened.append(environments_of(str(tmp_path / spec), **options))
        return opened[-1]

    yield open_environments
    for one in opened:
        one.close()


def says(*calls: tuple[str, Any], content: str = "") -> list[dict[str, Any]]:
    """A conversation that ends with a reply and its calls."""
    made = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return [{"role": "user", "content": "go"}, {"role": "assistant", "content": content, "tool_calls": made}]


def results(added: Any) -> list[str]:
    assert all(message["role"] == "tool" for message in added)
    return [message["content"] for message in added]


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within that time; one that nobody has waited for yet has ended too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


STORE = """
import os
from neighbour import START

class Store:
    def reset(self, goal, **columns):
        self.goal, self.kept = goal, dict(START, columns=len(columns))

    def put(self, key: str, value: int) -> None:
        "Keeps a number."
        self.kept[key] = value

    async def get(self, key: str) -> int:
        "Finds a number."
        return self.kept[key]

    def everything(self) -> dict:
        "All that is kept."
        return self.kept

    def process(self) -> int:
        "The number of the process."
        return os.getpid()

    def get_reward(self):
        return self.kept.get("x") == self.goal
"""


def test_tools_of_one_conversation_share_its_object_and_no_other(environments: Opener, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("START = {'a': 1}\n", "utf-8")
    mine = environments(STORE)
    assert (mine.name, set(mine.needs), mine.place) == ("my_env.Store", {"goal"}, "my_env.py:5")
    assert [tool["name"] for tool in mine.tools] == ["put", "get", "everything", "process"]
    first, second = mine.start({"goal": 7, "other": "é"}), mine.start({"goal": 8})
    added = first.respond(says(("put", '{"key": "x", "value": 7}'), ("get", {"key": "x"})))
    assert added == [
        {"role": "tool", "name": "put", "content": "null", "tool_call_id": "call_0"},
        {"role": "tool", "name": "get", "content": "7", "tool_call_id": "call_1"},
    ]
    assert results(second.respond(says(("everything", {})))) == ['{"a": 1, "columns": 0}']
    assert results(first.respond(says(("everything", "{}")))) == ['{"a": 1, "columns": 1, "x": 7}']
    assert first.respond(says(content="done")) == ()
    pid = int(results(first.respond(says(("process", {}))))[0])
    assert (first.reward(), first.reward(), second.reward()) == (1.0, 1.0, 0.0)
    assert gone(pid), "the reward closes the world"


def test_the_model_is_told_of_its_mistakes_and_of_tools_that_raise(environments: Opener) -> None:
    mine = environments(
        """
        import sys

        class Odd:
            def half(self, number: int) -> float:
                "Halves an even number."
                if number % 2:
                    raise ValueError(f"{number} is odd")
                return number / 2

            def leave(self) -> None:
                "Ends the process, it thinks."
                sys.exit()
        """
    )
    world = mine.start({"unasked": object()})  # not even written as JSON
    asked = [
        ("half", {"number": 3}),
        ("half", {"number": "4"}),
        ("half", {"number": 4, "exactly": True}),
        ("half", "{}"),
        ("half", "4"),
        ("half", "{no JSON"),
        ("double", {}),
        ("reset", {}),
        ("leave", {}),
        ("half", {"number": 4}),
    ]
    assert results(world.respond(says(*asked))) == [
        "error: 3 is odd",
        'error: number must be integer, got "4"',
        "error: half takes no 'exactly', but number",
        "error: half needs 'number'",
        "error: the arguments of half must be an object, got 4",
        'error: the arguments of half must be an object, got "{no JSON"',
        "error: there is no tool 'double', there are half, leave",
        "error: there is no tool 'reset', there are half, leave",
        "error: SystemExit",
        "2.0",
    ]
    assert world.reward() is None


TALKER = """
import os
import sys
import time

class Talker:
    tools = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}]

    def __init__(self):
        self.turns = 0

    def respond(self, messages):
        said = messages[-1]["content"]
        if said == "sleep":
            time.sleep(1000)
        if said == "spin":
            while True:
                try:
                    "".join("spin")
                except BaseException:
                    pass
        if said == "crash":
            os._exit(3)
        if said == "raise":
            raise LookupError("no   such\\nword")
        if said == "system":
            return [{"role": "system", "content": "no"}]
        if said == "broken":
            return [{"role": "user"}]
        if said == "object":
            return [{"role": "user", "content": object()}]
        if said == "messages":
            return [{"role": "tool", "name": "look", "content": "a\\ud800b"}, {"role": "user", "content": "Well?"}]
        self.turns += 1
        return None if said == "bye" else f"{len(messages)} messages, {self.turns} turns"

    def get_reward(self):
        print("printed into no protocol")
        return [1.0, None, float("nan"), "much", 2e9][self.turns]
"""


def hears(world: Any, said: str, before: int = 1) -> Any:
    return world.respond([{"role": "user", "content": "go"}] * before + [{"role": "assistant", "content": said}])


def test_a_class_may_answer_for_itself(environments: Opener) -> None:
    mine = environments(TALKER)
    assert mine.tools == ({"name": "look", "description": "Looks.", "parameters": {}},)
    world = mine.start({})
    assert hears(world, "messages") == [
        {"role": "tool", "name": "look", "content": "a?b"},
        {"role": "user", "content": "Well?"},
    ]
    assert hears(world, "hello", 3) == [{"role": "user", "content": "4 messages, 1 turns"}]
    assert world.reward() is None
    assert list(hears(mine.start({}), "bye")) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("crash", "my_env.py:6: Talker is gone: its process ended"),
        ("raise", "my_env.py:25: Talker raised LookupError: no such word"),
        ("system", "my_env.py:6: respond may say tool and user messages, got role 'system'"),
        ("broken", "my_env.py:6: what respond returned cannot be used: messages[0].content must be a string"),
        ("object", "my_env.py:12: Talker raised TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_what_respond_does_wrong_costs_its_conversation_only(environments: Opener, said: str, told: str) -> None:
    mine = environments(TALKER)
    world, other = mine.start({}), mine.start({})
    hears(other, "hello")
    for _ in range(2):
        with pytest.raises(EnvironmentFault) as caught:
            hears(world, said)
        assert str(caught.value).startswith(told)
    with pytest.raises(EnvironmentFault):
        world.reward()
    assert hears(other, "hello") == [{"role": "user", "content": "2 messages, 2 turns"}]
    assert mine.start({}).reward() == 1.0


@pytest.mark.parametrize(("said", "lines"), [("sleep", {15}), ("spin", {17, 18, 19, 20, 21})])
def test_one_that_never_returns_is_cut_off_with_its_line(environments: Opener, said: str, lines: set[int]) -> None:
    mine = environments(TALKER, timeout=1.0)
    world, other = mine.start({}), mine.start({})
    hears(other, "hello")
    begun = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        hears(world, said)
    assert time.monotonic() - begun < 10
    place, _, what = str(caught.value).partition(": ")
    assert what == "Talker did not return within 1 s"
    assert int(place.removeprefix("my_env.py:")) in lines
    assert hears(other, "hello") == [{"role": "user", "content": "2 messages, 2 turns"}]


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        (2, "my_env.py:6: a reward must be within ±1e+09, got nan"),
        (3, "my_env.py:37: Talker raised TypeError: a reward is a number or None, got str 'much'"),
        (4, "my_env.py:6: a reward must be within ±1e+09, got 2e+09"),
    ],
)
def test_a_reward_that_is_no_number_is_named(environments: Opener, turns: int, told: str) -> None:
    world = environments(TALKER).start({})
    for _ in range(turns):
        hears(world, "hello")
    with pytest.raises(EnvironmentFault, match="reward") as caught:
        world.reward()
    assert str(caught.value) == told


def test_what_a_world_started_ends_with_it(environments: Opener) -> None:
    mine = environments(
        """
        import subprocess
        import time

        class Shell:
            def start(self) -> int:
                "Starts a program."
                return subprocess.Popen(["sleep", "1000"]).pid

            def wait(self) -> None:
                "Waits for it."
                time.sleep(1000)
        """,
        timeout=3.0,
    )
    closed, stuck, left, lost = (mine.start({}) for _ in range(4))
    pids = [int(results(world.respond(says(("start", {}))))[0]) for world in (closed, stuck, left, lost)]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert closed.reward() is None and gone(pids[0])
    with pytest.raises(EnvironmentFault, match=r"my_env.py:\d+: Shell did not return within 3 s"):
        stuck.respond(says(("wait", {})))
    assert gone(pids[1])
    del lost
    assert gone(pids[3]), "a conversation that nobody holds is closed"
    mine.close()
    assert gone(pids[2])


def test_columns_that_reset_needs_and_what_it_may_not_return(environments: Opener) -> None:
    mine = environments(
        """
        class Picky:
            def reset(self, goal, hint="none"):
                if goal == "text":
                    return "Hello!"
                if goal == "raise":
                    raise KeyError(hint)

            def look(self) -> str:
                "Looks."
                return "ö"
        """
    )
    assert mine.needs == {"goal"}
    assert results(mine.start({"goal": 1, "more": 2}).respond(says(("look", {})))) == ["ö"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"hint": 1}, "my_env.py:2: reset needs the column 'goal'; the row has hint"),
        ({"goal": "text"}, "my_env.py:3: Picky raised TypeError: reset must return None, got 'Hello!'"),
        ({"goal": "raise"}, "my_env.py:7: Picky raised KeyError: 'none'"),
        ({"goal": object()}, "my_env.py:2: Picky cannot be given this row: a column holds object, which JSON cannot"),
    ]
    for columns, told in wrong:
        with pytest.raises(EnvironmentFault) as caught:
            mine.start(columns)
        assert str(caught.value).startswith(told)


def test_conversations_go_on_from_several_threads(environments: Opener) -> None:
    mine = environments(TALKER)

    def talk(_: int) -> str:
        world = mine.start({})
        said = [hears(world, "hello")[0]["content"] for _ in range(3)][-1]
        return str(said)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(talk, range(12))) == {"2 messages, 3 turns"}


def test_each_conversation_has_chances_of_its_own(environments: Opener) -> None:
    mine = environments(
        """
        import random
        import numpy.random

        class Dice:
            def throw(self) -> list[float]:
                "Throws dice."
                return [random.random(), float(numpy.random.random())]
        """
    )
    first, second = (results(mine.start({}).respond(says(("throw", {})))) for _ in range(2))
    both = [first[0][1:-1].split(", "), second[0][1:-1].split(", ")]
    assert both[0][0] != both[1][0] and both[0][1] != both[1][1]


def test_a_process_that_died_is_started_anew(environments: Opener) -> None:
    mine = environments(
        """
        import os

        class Killer:
            def parent(self) -> int:
                "The process from which this one was forked."
                return os.getppid()
        """
    )
    pid = int(results(mine.start({}).respond(says(("parent", {}))))[0])
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert int(results(mine.start({}).respond(says(("parent", {}))))[0]) != pid


@pytest.mark.parametrize(
    ("code", "spec", "told"),
    [
        ("", "my_env.py", r"my_env\.py: there is no class with public methods, which would be an environment's tools"),
        ("class A:\n  x = 1\n", "my_env.py:B", r"my_env\.py: there is no class B; it has A"),
        (
            "class A:\n  def f(self): 'f'\nclass B:\n  def f(self): 'f'\n",
            "my_env.py",
            r"my_env\.py: there are several classes; name one of A, B behind a colon",
        ),
        (
            "class A:\n  def reset(self): 0\n",
            "my_env.py",
            r"my_env\.py:1: A has neither public methods, which are the model's tools, nor respond\(messages\)",
        ),
        ("class A:\n  def f(self): 0\n", "my_env.py", r"my_env\.py:2: the tool f needs a docstring"),
        ("class A:\n  tools = [3]\n  def respond(self, m): 0\n", "my_env.py", r"my_env\.py:1: tools\[0\] must be"),
        ("import nowhere_to_be_found\n", "my_env.py", r"my_env\.py:1: ModuleNotFoundError"),
        ("import os\nos._exit(4)\n", "my_env.py", r"my_env\.py: its process exited with status 4 while it was loading"),
        ("", "my_env", r"an environment is FILE\.py or FILE\.py:Class, got"),
        ("", "none.py", r"there is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    environments: Opener, code: str, spec: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        environments(code, spec)


def test_a_file_that_never_finishes_loading_is_refused(environments: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START", 3.0)
    with pytest.raises(DataError, match=r"my_env\.py:2: it was still loading after 3 s"):
        environments("import time\ntime.sleep(1000)\n")


def test_worlds_die_with_the_training(tmp_path: Path) -> None:
    (tmp_path / "my_env.py").write_text(
        "import os, time\nclass A:\n  def f(self) -> int:\n    'f'\n    return os.getpid()\n"
        "  def hang(self) -> None:\n    'h'\n    time.sleep(1000)\n",
        "utf-8",
    )
    code = """
        from minimax_m1.train.rl.environment_file import environments_of
        mine = environments_of("my_env.py")
        world = mine.start({})
        def say(name):
            calls = [{"name": name, "arguments": "{}"}]
            return world.respond([{"role": "assistant", "content": "", "tool_calls": calls}])
        print(say("f")[0]["content"], flush=True)
        say("hang")
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    training = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
    )
    with training:
        assert training.stdout is not None
        pid = int(training.stdout.readline())
        time.sleep(0.3)  # it hangs by now
        training.kill()
    assert gone(pid)


def test_the_example_calculates(environments: Opener) -> None:
    mine = environments((ROOT / "examples" / "calculator.py").read_text("utf-8"))
    (tool,) = mine.tools
    assert tool["parameters"]["properties"]["operation"]["enum"] == ["+", "-", "*", "/"]
    world, other = mine.start({"answer": 408}), mine.start({"answer": 408})
    times = {"left": 12, "operation": "*", "right": 34}
    asked = [("calculate", times), ("calculate", times | {"operation": "^"}), ("calculate", times | {"operation": "/"})]
    said = results(world.respond(says(*asked)))
    assert said[:2] == ["408", 'error: operation must be one of ["+", "-", "*", "/"], got "^"']
    assert results(other.respond(says(asked[0], ("calculate", {"left": 1, "operation": "/", "right": 0})))) == [
        "408",
        "error: division by zero",
    ]
    assert (world.reward(), other.reward()) == (0.0, 1.0)
