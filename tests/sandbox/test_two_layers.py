"""Descriptors left open, the environment, core dumps: two walls for each, and either is enough alone."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister import Browser
from cloister.process import spawn
from cloister.process.variables import CHANNEL_VARIABLE, LIBRARIES_VARIABLE
from cloister.sandbox import Limits, privileges

# Descriptors and environment: the launcher hands over next to nothing, and shed() lets go of the rest.

TELL = """#!{python}
import json, os, sys
open_here = {{}}
for number in os.listdir("/proc/self/fd"):
    try:
        open_here[number] = os.readlink("/proc/self/fd/" + number)
    except FileNotFoundError:
        pass  # the listing itself
sys.stderr.write(json.dumps([open_here, dict(os.environ)]))
"""


@pytest.fixture
def inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[dict[str, str], dict[str, str]]]:
    """Starts a program in the place of a child that lets go of nothing; what it has open, and its environment."""
    program = tmp_path / "program"
    program.write_text(TELL.format(python=sys.executable))
    program.chmod(0o755)

    def start() -> tuple[dict[str, str], dict[str, str]]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(program))
            spawned = spawn.spawn("zygote")
        os.close(spawned.control)
        os.set_blocking(spawned.errors, True)
        with os.fdopen(spawned.errors) as said:
            found = json.loads(said.read())
        os.waitpid(spawned.pid, 0)
        return found[0], found[1]

    return start


Inherited = Callable[[], tuple[dict[str, str], dict[str, str]]]


def test_the_launcher_alone_lets_nothing_through_that_this_program_has_open(
    inherited: Inherited, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    with (tmp_path / "secret").open() as secret:
        assert not os.get_inheritable(secret.fileno())
        found, environment = inherited()
    null, channel = "/dev/null", environment[CHANNEL_VARIABLE]
    assert {found.pop("0"), found.pop("1")} == {null}
    assert found.pop("2").startswith("pipe:")
    assert found.pop(channel).startswith("socket:")
    # What is left, this program was started with itself, and not told to keep to itself.
    assert {int(number) for number in found} <= set(filter(_inheritable, range(3, 1024)))
    assert str(tmp_path / "secret") not in found.values()


def _inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


@pytest.fixture
def leak() -> Iterator[tuple[int, int]]:
    """A pipe whose writing end every program inherits that this one starts, as a careless C library leaves them."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    yield reader, writer
    os.close(reader)


def held_by_nobody(reader: int) -> bool:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return poll.poll(0) == [(reader, select.POLLHUP)]


def test_shed_alone_closes_what_the_launcher_lets_through(
    leak: tuple[int, int], inherited: Inherited
) -> None:
    reader, writer = leak
    assert any(target == os.readlink(f"/proc/self/fd/{writer}") for target in inherited()[0].values())
    with Browser() as browser:
        browser.new_page().set_content("<p>words")
        assert not held_by_nobody(reader)
        os.close(writer)
        assert held_by_nobody(reader)
        assert len(browser.processes()) > 3


def test_the_launcher_alone_passes_on_only_what_it_knows(
    inherited: Inherited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That shed() alone empties a full environment is in test_shed.py."""
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    environment = inherited()[1]
    ours = {CHANNEL_VARIABLE, LIBRARIES_VARIABLE}
    assert set(environment) <= {*spawn._PASSED, *ours, "LC_CTYPE"}  # which Python may set itself


# Core dumps: the limit, and not being dumpable.


def dumps_core(prepare: Callable[[], object], folder: Path) -> bool:
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            prepare()
            os.kill(os.getpid(), signal.SIGQUIT)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "the process could not be prepared"
    return os.WCOREDUMP(status)


@pytest.fixture
def crash_site(tmp_path: Path) -> Path:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY and os.geteuid() != 0:
        pytest.skip("this user may not leave a core at all")
    if not Path("/proc/sys/kernel/core_pattern").read_text().strip():
        pytest.skip("this kernel is told to leave no core")
    assert dumps_core(lambda: None, tmp_path), "a process that nothing holds must leave one"
    return tmp_path


def test_the_limit_alone_prevents_a_core(crash_site: Path) -> None:
    assert not dumps_core(lambda: Limits(processes=None).apply(), crash_site)


def test_not_being_dumpable_alone_prevents_a_core(crash_site: Path) -> None:
    assert not dumps_core(privileges.refuse_to_be_read, crash_site)
