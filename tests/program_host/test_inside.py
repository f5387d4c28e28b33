"""A foreign program, looked at from inside and from outside: what it has, and what it has not."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cloister.plugins.limits import Limits
from cloister.sandbox import Layer, machine
from tests.program_host.conftest import PYTHON, SHELL, World

pytestmark = pytest.mark.usefixtures("python")

FORKS = Limits(processes=16)


def test_every_layer_that_the_machine_has_holds_it_but_for_what_exec_takes_away(world: World) -> None:
    process, pipes = world.start(SHELL, "-c", "read line")
    report = world.thread.run(process.ready())
    available = machine().available - {Layer.NOT_DUMPABLE}
    assert {Layer(layer) for layer in report.layers} == available
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    bounds = (
        ("CapBnd",) if Layer.USER_NAMESPACE in available else ()
    )  # to empty that one takes a power over it
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", *bounds)} <= {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (
        not int(status["SigIgn"], 16) & 0x7FFFFFFF
    )  # the C library keeps the first two after those for itself
    assert "0" not in status["Uid"].split()
    assert os.getpgid(process.pid) == process.pid
    found = {
        int(fd): os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")
    }
    assert sorted(found) == [0, 1, 2]
    assert all(name.startswith("pipe:") for name in found.values())
    for fd in pipes:
        os.close(fd)
    world.thread.run(process.end())


def test_its_environment_its_folder_and_its_arguments_are_what_was_given(world: World) -> None:
    code = "import os, sys, json; print(json.dumps([dict(os.environ), os.getcwd(), sys.argv, os.getuid()]))"
    environment, folder, arguments, user = json.loads(world.python(code, "one two", "*"))
    assert environment == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/"} | (
        {"LC_CTYPE": "C.UTF-8"} if "LC_CTYPE" in environment else {}
    )
    assert (folder, arguments) == ("/", ["-c", "one two", "*"])
    assert user != 0


def test_it_reads_what_the_system_has_and_nothing_else(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    paths = ["/etc/passwd", "/proc/self/status", "/sys/kernel", "/dev/kmsg", "/root", "/home", "/var", "/run", "/tmp",
             str(tmp_path / "secret"), __file__, "/etc/shadow", "/proc/1/environ", "/dev/mem", "/dev/tty"]  # fmt: skip
    code = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError:
        continue
    print(path)
"""
    assert world.python(code, *paths, "/usr/bin") == "/usr/bin\n"


def test_it_writes_nowhere(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = """
import os, sys
for path in sys.argv[1:]:
    for make in (lambda: open(path, "w"), lambda: os.mkdir(path), lambda: os.symlink("x", path)):
        try: make()
        except OSError: continue
        print(path)
open("/dev/null", "w").write("gone")
assert open("/dev/null").read() == ""
"""
    paths = [
        str(tmp_path / "new"),
        "/new",
        "/tmp/new",
        "/usr/new",
        "/usr/bin/new",
        "/dev/new",
        "/dev/shm/new",
    ]
    assert world.python(code, *paths) == ""
    assert not list(tmp_path.iterdir())


def test_it_has_no_socket_of_any_sort(world: World) -> None:
    code = """
import socket
for family in range(46):
    for kind in (1, 2, 3, 5):
        try: socket.socket(family, kind)
        except OSError: continue
        print(family, kind)
try: socket.socketpair()
except OSError: pass
else: print("pair")
"""
    assert world.python(code) == ""


CALLS = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "unshare": 272, "setns": 308,
        "keyctl": 250, "bpf": 321, "perf_event_open": 298, "io_uring_setup": 425, "userfaultfd": 323,
        "memfd_create": 319, "execveat": 322, "setsid": 112, "setpgid": 109, "seccomp": 317, "personality": 135,
        "pidfd_open": 434, "pidfd_getfd": 438, "chroot": 161, "pivot_root": 155, "clone3": 435, "kcmp": 312,
        "setresuid": 117, "capset": 126, "init_module": 175, "kexec_load": 246, "reboot": 169, "sethostname": 170,
        "open_by_handle_at": 304, "landlock_create_ruleset": 444, "an unknown one": 999, "setuid": 105,
        "semget": 64, "shmget": 29, "msgget": 68, "mq_open": 240, "add_key": 248, "inotify_init": 253,
        "fanotify_init": 300, "sched_setscheduler": 144, "quotactl": 179, "acct": 163, "swapon": 167,
    }
}  # fmt: skip


@pytest.mark.skipif(os.uname().machine not in CALLS, reason="the numbers are those of x86_64")
def test_what_it_may_not_call_fails_and_it_goes_on(world: World) -> None:
    code = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, number in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    found[name] = ctypes.get_errno() if result == -1 else 0
print(json.dumps(found))
"""
    for limits in (Limits(), FORKS):
        found = json.loads(world.python(code, json.dumps(CALLS["x86_64"]), limits=limits))
        assert set(found.values()) <= {errno.EPERM, errno.ENOSYS}, found


def test_no_memory_of_its_own_becomes_code(world: World) -> None:
    code = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
NONE = ctypes.c_void_p(-1).value
for protection in (4, 5, 6, 7):
    if libc.mmap(None, 4096, protection, 0x22, -1, 0) != NONE: print("anonymous", protection)
there = libc.mmap(None, 4096, 3, 0x22, -1, 0)
assert there != NONE
for protection in (4, 5, 6, 7):
    if libc.mprotect(there, 4096, protection) == 0: print("mprotect", protection)
file = open("/usr/bin/env", "rb")
assert libc.mmap(None, 4096, 5, 2, file.fileno(), 0) != NONE
if libc.mmap(None, 4096, 7, 2, file.fileno(), 0) != NONE: print("file, writable")
"""
    assert world.python(code) == ""


def test_it_cannot_type_into_a_terminal_nor_make_itself_another(world: World) -> None:
    code = """
import ctypes, fcntl
for request in (0x5412, 0x541C, 0x540E):  # TIOCSTI, TIOCLINUX, TIOCSCTTY
    try: fcntl.ioctl(0, request, b"x")
    except OSError: continue
    print(request)
libc = ctypes.CDLL(None, use_errno=True)
for option, value in ((4, 1), (1, 0), (36, 1), (8, 1), (28, 0)):
    if libc.prctl(option, value, 0, 0, 0) == 0: print("prctl", option)
"""
    assert world.python(code) == ""


def test_it_signals_nobody_but_its_own(world: World) -> None:
    victim, pipes = world.start(SHELL, "-c", "read line")
    code = """
import os
try: os.kill(-1, 9)  # which says that it worked where there is nobody to kill
except OSError: pass
for pid in range(1, 200):
    if pid == os.getpid(): continue
    try: os.kill(pid, 9)
    except OSError: continue
    print(pid)
"""
    for limits in (Limits(), FORKS):
        assert world.python(code, limits=limits) == ""
    assert victim.is_alive
    for fd in pipes:
        os.close(fd)
    world.thread.run(victim.end())


def test_setuid_programs_give_it_nothing(world: World) -> None:
    for path in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"):
        if Path(path).is_file():
            code = f"import os; os.execv('{path}', ['{path}', '--nothing'])"
            done = world.run(PYTHON, "-I", "-c", code)
            assert done["returncode"] != 0
            return
    pytest.skip("no setuid program")
