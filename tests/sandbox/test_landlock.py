"""Landlock of each version: what a process is held from by it alone, and what only later ones hold it from."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cloister.sandbox import Layer, Policy, landlock, privileges, seccomp
from tests.sandbox.locked import Sandbox, open_folder

HERE = landlock.abi()
NEWEST = 10


class Outside(NamedTuple):
    folder: Path
    port: int
    abstract: bytes
    victim: int


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    name = b"\0cloister-landlock-%d" % os.getpid()
    with (
        open_folder() as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        (folder / "file").write_text("text")
        (folder / "file").chmod(0o666)
        abstract.bind(name)
        abstract.listen()
        named.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o666)
        named.listen()
        victim = os.fork()  # of the user that the process will be
        if victim == 0:
            try:
                if os.geteuid() == 0:
                    os.setresuid(*[privileges.NOBODY] * 3)
                signal.pause()
            finally:
                os._exit(0)
        yield Outside(folder, listener.getsockname()[1], name, victim)
        os.kill(victim, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL


def connect(family: int, address: object, kind: int = socket.SOCK_STREAM) -> None:
    with socket.socket(family, kind) as client:
        client.connect(address)  # type: ignore[arg-type]


def bind(kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", 0))


def control_a_device() -> None:
    with open("/dev/null", "rb") as null:
        try:
            fcntl.ioctl(null, 0x5401, bytes(64))  # TCGETS
        except OSError as error:
            if error.errno != errno.ENOTTY:  # the driver's own answer
                raise


ATTEMPTS: dict[Callable[[Outside], object], int] = {
    lambda o: (o.folder / "file").read_text(): 1,
    lambda o: os.truncate(o.folder / "file", 4): 3,
    lambda o: connect(socket.AF_INET, ("127.0.0.1", o.port)): 4,
    lambda o: bind(socket.SOCK_STREAM): 4,
    lambda o: control_a_device(): 5,
    lambda o: connect(socket.AF_UNIX, o.abstract): 6,
    lambda o: os.kill(o.victim, 0): 6,
    lambda o: connect(socket.AF_UNIX, str(o.folder / "socket")): 9,
    lambda o: connect(socket.AF_INET, ("127.0.0.1", o.port), socket.SOCK_DGRAM): 10,
    lambda o: bind(socket.SOCK_DGRAM): 10,
}
"""Each, and the version from which on it is denied."""


def of_version(version: int) -> Sandbox:
    """Nothing but Landlock, and that of ``version``."""

    def switch_off() -> None:
        landlock.abi = lambda: version
        seccomp.available = lambda: False

    policy = Policy("tested", ("stdio",), read_paths=("/dev/null",))
    return Sandbox(policy, isolated=False, as_nobody=True, switch_off=switch_off, allow_degraded=True)


@pytest.mark.skipif(HERE == 0, reason="this kernel has no Landlock")
@pytest.mark.parametrize("version", range(HERE + 1))
def test_a_version_denies_what_it_knows_and_claims_no_more(version: int, outside: Outside) -> None:
    def attempt() -> list[bool]:
        denied = []
        for each in ATTEMPTS:
            try:
                each(outside)
                denied.append(False)
            except OSError as error:
                denied.append(error.errno in (errno.EACCES, errno.EPERM))
        return denied

    outcome = of_version(version).run(attempt)
    assert outcome.value == [since <= version for since in ATTEMPTS.values()]
    held = {layer for layer in outcome.layers if layer.startswith("landlock")}
    claims = {Layer.LANDLOCK: 1, Layer.LANDLOCK_NETWORK: 4, Layer.LANDLOCK_SCOPE: 6}
    assert held == {layer for layer, since in claims.items() if since <= version}


class Asked(NamedTuple):
    """Of a kernel that does not exist here."""

    size: int
    files: int
    network: int
    scoped: int
    flags: int


def asked(monkeypatch: pytest.MonkeyPatch, version: int, *, connects: bool) -> Asked:
    seen: list[tuple[int, int, int, int]] = []
    flags: list[int] = []

    def kernel(name: str, *arguments: object) -> int:
        if name == "landlock_create_ruleset":
            pointer, size = arguments[0], arguments[1]
            words = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64))  # type: ignore[arg-type]
            seen.append((int(str(size)), words[0], words[1], words[2]))
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        assert name == "landlock_restrict_self"
        flags.append(int(str(arguments[1])))
        return 0

    monkeypatch.setattr(landlock, "syscall", kernel)
    landlock.restrict(version, (), connects=connects)
    landlock.forget()
    return Asked(*seen[0], flags[0])


ALL = {
    1: (8, 0x1FFF, 0),
    2: (8, 0x3FFF, 0),
    3: (8, 0x7FFF, 0),
    4: (16, 0x7FFF, 0b11),
    5: (16, 0xFFFF, 0b11),
    6: (24, 0xFFFF, 0b11),
    7: (24, 0xFFFF, 0b11),
    8: (24, 0xFFFF, 0b11),
    9: (24, 0x1FFFF, 0b11),
    10: (24, 0x1FFFF, 0b1111),
}


@pytest.mark.parametrize("version", [*ALL, NEWEST + 1])
def test_what_is_asked_of_each_version_is_all_that_it_knows(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From include/uapi/linux/landlock.h of each kernel; of the newer ones there is none here to ask."""
    size, files, network = ALL[min(version, NEWEST)]
    quiet, every_thread = 0b1, 0b1000
    assert asked(monkeypatch, version, connects=False) == Asked(
        size,
        files,
        network,
        scoped=0b11 if version >= 6 else 0,
        flags=(quiet if version >= 7 else 0) | (every_thread if version >= 8 else 0),
    )


@pytest.mark.parametrize("version", [4, NEWEST])
def test_who_connects_may_bind_no_tcp_port_and_send_datagrams(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch, version, connects=True).network == 0b1
