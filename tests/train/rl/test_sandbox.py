"""Programs behind walls: what they may do, and each way out that is shut."""

from __future__ import annotations

import os
import platform
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from minimax_m1.errors import DataError
from minimax_m1.train.rl.sandbox import Limits, Ran, run_python, share_passed

walled = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the walls are those of Linux on x86-64"
)
PATIENT = Limits(wall_seconds=60)  # the machine may be busy


def last(ran: Ran) -> str:
    assert not ran.timed_out, "it was killed instead of stopped"
    return ran.stderr.strip().splitlines()[-1]


@walled
def test_a_program_reads_its_input_and_prints() -> None:
    program = """
import collections, decimal, fractions, heapq, itertools, json, math, random, re, tempfile
print(input()[::-1], "ä", __name__)
with tempfile.TemporaryFile("w+") as file:
    print(file.write("here"))
"""
    ran = run_python(program, "abc\n", PATIENT)
    assert (ran.status, ran.stdout, ran.stderr) == (0, "cba ä __main__\n4\n", "")
    assert not ran.timed_out and not ran.cut and ran.seconds > 0


@walled
@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import os\nos.fork()", "PermissionError"),
        ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
        ("import os\nos.execv('/bin/true', ['true'])", "PermissionError"),
        ("import threading\nthreading.Thread(target=print).start()", "RuntimeError: can't start new thread"),
        ("import os\nos.kill(os.getppid(), 0)", "PermissionError"),
        ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "ValueError"),
        ("import os\nos.open('/dev/null', os.O_RDONLY | os.O_TRUNC)", "PermissionError"),
        ("import os\nos.truncate('program.py', 0)", "PermissionError"),
        ("import os\nos.chmod('program.py', 0)", "PermissionError"),
        ("import os\nos.symlink('/etc/passwd', 'door')", "PermissionError"),
        ("import os\nprint(os.listdir('/'))", "PermissionError"),
        ("import os\nprint(open('/proc/self/environ').read())", "PermissionError"),
        ("import os\nprint(os.listdir('/proc'))", "PermissionError"),
        ("print(open('/etc/passwd').read())", "PermissionError"),
        ("x = bytearray(1 << 40)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytes(1 << 26))", "MemoryError"),
        ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 16)); f.flush()", "OSError: [Errno 27] File too large"),
        ("x = [open('program.py') for _ in range(99)]", "OSError: [Errno 24] Too many open files"),
        ("import numpy", "ModuleNotFoundError"),
        ("def", "SyntaxError: invalid syntax"),
        ("'\\ud800'.encode()", "UnicodeEncodeError"),
    ],
)
def test_a_way_out_is_shut(program: str, error: str) -> None:
    ran = run_python(program, limits=PATIENT)
    assert ran.status == 1 and last(ran).startswith(error)
    assert ran.stdout == ""


@walled
def test_nothing_outside_is_written_or_read(tmp_path: Path) -> None:
    secret = tmp_path / "answers.txt"
    secret.write_text("42", "utf-8")
    onto = ("open(p)", "open(p, 'w')", "open(p, 'a')", "os.truncate(p, 0)", "os.remove(p)", "os.utime(p)")
    beside = ("os.mkdir(p + 'x')", "open(p + 'x', 'w')", "open('../x', 'w')", "os.rename(p, 'x')", "os.link(p, 'x')")
    for action in (*onto, *beside):
        ran = run_python(f"import os\np = {str(secret)!r}\n{action}", limits=PATIENT)
        assert ran.status == 1 and last(ran).startswith(("PermissionError", "OSError: [Errno 18]")), action
    assert secret.read_text("utf-8") == "42" and list(tmp_path.iterdir()) == [secret]


@walled
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address).close()  # it is open to others
        ran = run_python(f"import socket\nsocket.create_connection({address!r})", limits=PATIENT)
    assert last(ran).startswith("PermissionError")


@walled
def test_the_walls_hold_for_calls_past_python() -> None:
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for call in ((57,), (58,), (41, 2, 1, 0), (425, 1, 0), (272, 0), (435, 0, 0)):
    print(libc.syscall(*call), ctypes.get_errno())
"""
    assert run_python(program, limits=PATIENT).stdout == "-1 1\n" * 6


@walled
def test_loops_end_by_their_own_time_and_sleepers_by_the_clock() -> None:
    ran = run_python("while True: pass", limits=Limits(cpu_seconds=1, wall_seconds=60))
    assert ran.status == -9 and not ran.timed_out
    ran = run_python("print('begun', flush=True)\nimport time\ntime.sleep(999)", limits=Limits(wall_seconds=5))
    assert (ran.status, ran.timed_out, ran.stdout) == (-9, True, "begun\n") and 5 <= ran.seconds < 30


@walled
def test_output_without_end_is_cut() -> None:
    ran = run_python("while True: print('x' * 999)", limits=Limits(wall_seconds=60, output_bytes=5000))
    assert ran.cut and len(ran.stdout) == 5000 and ran.status != 0


@walled
def test_a_crash_is_a_status() -> None:
    assert run_python("import ctypes\nctypes.string_at(0)", limits=PATIENT).status == -11


@walled
def test_nothing_of_ours_is_seen_or_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os\nopen('left', 'w').write('x')\nprint(sorted(os.environ), os.listdir('.'))"
    ran = run_python(program, limits=PATIENT)
    assert ran.status == 0 and "SECRET_KEY" not in ran.stdout and "left" in ran.stdout
    assert not list(tmp_path.iterdir())


@walled
def test_a_program_is_graded_by_what_it_prints() -> None:
    cases = [("2\n", "4"), ("3\n", "9\n"), ("4\n", "16"), ("5\n", "0")]
    assert share_passed("print(int(input()) ** 2)  \n", cases, PATIENT) == 0.75
    assert share_passed("import sys\nsys.exit(0)", cases[:1], PATIENT) == 0
    assert share_passed("print(4)\nraise SystemExit(1)", cases[:1], PATIENT) == 0
    assert share_passed("print('4' * 9)", [("", "44444")], Limits(wall_seconds=60, output_bytes=5)) == 0  # cut


@walled
def test_without_walls_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "child.py"
    broken.write_text("raise OSError('no Landlock here')", "utf-8")
    monkeypatch.setattr("minimax_m1.train.rl.sandbox_child.__file__", str(broken))
    with pytest.raises(DataError, match="cannot be built here: OSError: no Landlock here"):
        run_python("print(1)", limits=PATIENT)


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(DataError, match="only run on Linux on x86-64"):
        run_python("print(1)")


@walled
def test_descriptors_of_ours_do_not_leak() -> None:
    handle = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        ran = run_python(f"import os\nos.read({handle}, 1)", limits=PATIENT)
    finally:
        os.close(handle)
    assert last(ran).startswith("OSError: [Errno 9]")
