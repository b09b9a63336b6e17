"""The walls: a process shuts itself in and only then runs the program of a model.

Started by `sandbox.py` as a program of its own in an empty folder; it needs nothing but Python's own library. Once the
walls stand it says so through a pipe that the program never sees. If one cannot be built, it ends and runs nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator

PROGRAM = "program.py"

# Numbers of <linux/prctl.h>, <linux/seccomp.h>, <linux/landlock.h>, <linux/filter.h>, <linux/audit.h>.
_PDEATHSIG, _SECCOMP, _NO_NEW_PRIVS, _FILTER = 1, 22, 38, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _VERSION, _BENEATH = 444, 445, 446, 1, 1
_READ = 1 << 2 | 1 << 3  # files and folders
_FILES = (
    1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
)  # read, write, list, remove and make files, folders
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # refused with EPERM
_X86_64, _X32 = 0xC000003E, 0x40000000
_TRUNCATE, _MODES = 0o1000, 0o3

# Calls of x86-64 that are refused: what makes processes and threads, what reaches others, what opens doors.
_REFUSED = (
    56, 57, 58, 59, 322, 435,  # clone fork vfork execve execveat clone3
    41, 425, 426, 427,  # socket io_uring_setup io_uring_enter io_uring_register
    62, 200, 234, 129, 297, 424, 434, 438,  # kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_*
    101, 310, 311, 312, 440,  # ptrace process_vm_readv process_vm_writev kcmp process_madvise
    160, 302, 141, 142, 144, 203, 314, 251,  # setrlimit prlimit64 setpriority sched_set* ioprio_set
    29, 64, 68, 240, 319, 447,  # shmget semget msgget mq_open memfd_create memfd_secret
    76, 437,  # truncate, openat2: its flags cannot be seen
    90, 91, 268, 452, 92, 93, 94, 260,  # chmod chown in all forms
    132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 463, 466,  # times and attributes of files
    133, 259,  # mknod mknodat
    155, 161, 163, 165, 166, 167, 168, 428, 429, 430, 432, 442,  # pivot_root chroot acct mounts swap, new mounts
    272, 308, 321, 298, 323, 300, 303, 304,  # unshare setns bpf perf_event_open userfaultfd fanotify_init handles
    169, 175, 176, 313, 246, 320, 172, 173, 103, 153, 179,  # reboot, modules, kexec, ports, syslog, vhangup, quotactl
    159, 164, 170, 171, 227, 305,  # clocks and names of the machine
    248, 249, 250, 256, 279,  # keys, pages of others
)  # fmt: skip


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def _landlock(libc: ctypes.CDLL, folder: str) -> None:
    """No file beside Python's own may be read and none outside `folder` written."""
    version = _call(libc, _CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)  # later kernels know more of them
    handled = ctypes.create_string_buffer(struct.pack("=Q", (1 << rights) - 1), 8)
    ruleset = _call(libc, _CREATE_RULESET, handled, ctypes.c_size_t(8), 0)
    libraries = [f"{sys.base_prefix}/lib", f"{sys.base_exec_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    rules = [(path, _READ) for path in [*libraries, "/usr/share/zoneinfo"]]
    rules += [(path, 1 << 2) for path in ("/etc/ld.so.cache", "/dev/urandom", "/dev/random", "/dev/zero")]
    rules += [("/dev/null", 1 << 1 | 1 << 2), (folder, _FILES | (1 << 14 if version >= 3 else 0))]
    for path, allowed in rules:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, handle), 12)
        _call(libc, _ADD_RULE, ruleset, _BENEATH, rule, 0)
        os.close(handle)
    _call(libc, _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _instructions() -> Iterator[tuple[int, int, int, int]]:
    """The filter as (operation, jump if true, jump if false, operand)."""
    yield _LOAD, 0, 0, 4  # the architecture
    yield _EQUAL, 1, 0, _X86_64
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, 0  # the call's number
    yield _AT_LEAST, 0, 1, _X32
    yield _RETURN, 0, 0, _KILL
    for number in _REFUSED:
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _REFUSE
    for number, flags in ((2, 24), (257, 32)):  # open and openat: where their flags lie
        yield _EQUAL, 0, 6, number
        yield _LOAD, 0, 0, flags
        yield _AND, 0, 0, _TRUNCATE | _MODES
        yield _EQUAL, 1, 0, _TRUNCATE  # older Landlock lets a file opened for reading be cut to nothing
        yield _EQUAL, 0, 1, _TRUNCATE | _MODES
        yield _RETURN, 0, 0, _REFUSE
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ALLOW


def _seccomp(libc: ctypes.CDLL) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _instructions())
    filled = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(filled)))
    _prctl(libc, _SECCOMP, _FILTER, program)


def _prctl(libc: ctypes.CDLL, option: int, value: int, more: object = None) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), more, None, None):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _limit(limits: dict[str, float]) -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (int(most), int(most)))


def main(told: int, limits: str) -> None:
    """Builds the walls, says so through the pipe `told`, and runs the program in the working directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(PROGRAM, encoding="utf-8") as file:
        text = file.read()
    _prctl(libc, _PDEATHSIG, signal.SIGKILL)  # when the training dies, so does this
    _limit(json.loads(limits))
    _prctl(libc, _NO_NEW_PRIVS, 1)
    _landlock(libc, os.getcwd())
    _seccomp(libc)
    os.write(told, b"1")
    os.close(told)
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    sys.argv = [PROGRAM]
    exec(compile(text, PROGRAM, "exec"), names)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
