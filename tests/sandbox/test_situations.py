"""Where namespaces, root, /proc, processes, descriptors, Landlock or newer calls are missing: whether Cloister runs
there, what it loses, and what ``cloister doctor`` says of it."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from PIL import Image

from cloister.sandbox import NAMESPACES, Layer
from tests.sandbox import situations
from tests.sandbox.situations import Make, all_of, kernel_without, limit, sysctl, user_namespace
from tests.servers import Page, Server

ROOT = os.geteuid() == 0
NOTHING: frozenset[Layer] = frozenset()
EVERY_NAMESPACE = frozenset({*NAMESPACES, Layer.EMPTY_ROOT})
MOUNTS = frozenset({Layer.MOUNT_NAMESPACE})
EMPTY_ROOT = frozenset({Layer.EMPTY_ROOT})
LANDLOCK = frozenset({Layer.LANDLOCK, Layer.LANDLOCK_NETWORK, Layer.LANDLOCK_SCOPE})
KEYRING = frozenset({Layer.OWN_KEYRING})


class Situation(NamedTuple):
    """``lost`` are the layers that every kind of process misses there, and ``said`` is what the doctor says to it."""

    make: Make
    lost: frozenset[Layer] = NOTHING
    said: str = ""
    lost_with_fonts: frozenset[Layer] = NOTHING
    """What the kind that reads fonts misses besides."""
    needs_root: bool = True
    """To be made."""


def user(make: Make) -> Make:
    return all_of(situations.some_user, make)


SITUATIONS = {
    "root": Situation(lambda: None),
    "a user": Situation(situations.some_user, needs_root=False),
    "a user who may make no user namespace": Situation(
        all_of(user_namespace(), sysctl("user.max_user_namespaces", "0"), situations.some_user),
        EVERY_NAMESPACE,
        "`sysctl -w user.max_user_namespaces=15000`",
    ),
    "root that may make no user namespace": Situation(
        all_of(user_namespace(), sysctl("user.max_user_namespaces", "0")),
        frozenset({Layer.USER_NAMESPACE}),
        "`sysctl -w user.max_user_namespaces=15000`",
    ),
    "root that may make no network namespace": Situation(
        all_of(user_namespace(), sysctl("user.max_net_namespaces", "0")),
        frozenset({Layer.NETWORK_NAMESPACE}),
        "`sysctl -w user.max_net_namespaces=15000`",
    ),
    "a user of Debian 10": Situation(
        situations.user_of_debian_10, EVERY_NAMESPACE, "`sysctl -w kernel.unprivileged_userns_clone=1`"
    ),
    "a user of Ubuntu 24.04": Situation(
        situations.user_of_ubuntu_24_04,
        EVERY_NAMESPACE,
        "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    "root where mounts are refused": Situation(
        kernel_without("mount", errno.EACCES), MOUNTS, "apparmor=unconfined", EMPTY_ROOT
    ),
    "a user where mounts are refused": Situation(
        user(kernel_without("mount", errno.EPERM)), MOUNTS, "apparmor=unconfined", EMPTY_ROOT, needs_root=False
    ),
    "root in Docker": Situation(
        situations.root_in_docker, NAMESPACES | KEYRING, "--security-opt seccomp=", EMPTY_ROOT
    ),
    "a user in Docker": Situation(
        situations.user_in_docker, EVERY_NAMESPACE | KEYRING, "--security-opt seccomp=", needs_root=False
    ),
    "root in rootless Podman": Situation(
        situations.root_in_podman, frozenset({Layer.UTS_NAMESPACE}), "Podman takes another"
    ),
    "a restricted pod": Situation(situations.restricted_pod, EVERY_NAMESPACE | KEYRING, "--security-opt seccomp="),
    "root of a container with users of its own": Situation(situations.root_of_a_container),
    "root of a container with no other user": Situation(situations.root_by_itself, needs_root=False),
    "root with a read-only /proc/sys": Situation(situations.read_only("/proc/sys")),
    "a user with a read-only /proc/sys": Situation(
        all_of(situations.read_only("/proc/sys"), situations.some_user)
    ),
    "root without /proc": Situation(
        situations.no_proc, frozenset({Layer.USER_NAMESPACE, Layer.PID_NAMESPACE}), "/proc is not mounted"
    ),
    "a user without /proc": Situation(
        all_of(situations.no_proc, situations.some_user), EVERY_NAMESPACE, "/proc is not mounted"
    ),
    "a user from whom /proc hides others": Situation(all_of(situations.hidden_processes, situations.some_user)),
    "no_new_privs": Situation(situations.no_new_privileges, needs_root=False),
    "few descriptors": Situation(limit(resource.RLIMIT_NOFILE, 64), needs_root=False),
    "no Landlock in the kernel": Situation(
        kernel_without("landlock_create_ruleset", errno.ENOSYS), LANDLOCK, "CONFIG_SECURITY_LANDLOCK", needs_root=False
    ),
    "Landlock switched off at boot": Situation(
        kernel_without("landlock_create_ruleset", errno.EOPNOTSUPP), LANDLOCK, "`lsm=`", needs_root=False
    ),
    "a container that refuses Landlock": Situation(
        kernel_without("landlock_create_ruleset", errno.EPERM), LANDLOCK, "Docker from 23.0 on", needs_root=False
    ),
    "a kernel without W xor X, close_range, memfds that never run, keys, mount_setattr": Situation(
        all_of(
            situations.without_mdwe,
            situations.without_noexec_memfds,
            kernel_without("close_range keyctl mount_setattr", errno.ENOSYS),
        ),
        MOUNTS | KEYRING | {Layer.NO_EXECUTABLE_MEMORY},
        "CONFIG_KEYS",
        EMPTY_ROOT,
        needs_root=False,
    ),
}  # fmt: skip

BROWSE = """
import sys
from cloister import Browser, NetworkPolicy
with Browser(network=NetworkPolicy(allow_cidrs=["127.0.0.1"]), allow_degraded="degraded" in sys.argv) as browser:
    page = browser.new_page(viewport={"width": 40, "height": 30})
    page.goto(sys.argv[1])
    sys.stdout.buffer.write(page.screenshot())
"""


def run(make: Make, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    def prepare() -> None:
        try:
            make()
        except BaseException:
            traceback.print_exc()  # subprocess says only that it failed
            raise

    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        timeout=50,
        check=False,
        preexec_fn=prepare,
        cwd="/",
        env={"LANG": "C.UTF-8", "PATH": os.environ["PATH"], "HOME": "/nowhere", "COLUMNS": "200"},
    )


def needs(situation: Situation) -> None:
    if situation.needs_root and not ROOT:
        pytest.skip("only root can make this situation")


@pytest.fixture(scope="module")
def picture() -> Iterator[str]:
    """The address of a page that shows one red image."""
    image = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(image, "PNG")
    with Server(
        {
            "/": Page(b"<body style='margin:0'><img src=red.png width=40 height=30>"),
            "/red.png": Page(image.getvalue(), "image/png"),
        }
    ) as server:
        yield server.url("/")


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_process_comes_up_and_the_doctor_says_what_is_lost_and_why(name: str) -> None:
    situation = SITUATIONS[name]
    needs(situation)
    done = run(situation.make, "-m", "cloister", "doctor", "--json")
    found = json.loads(done.stdout or b"{}")
    assert found, done.stderr.decode()
    refused = Layer.LANDLOCK in situation.lost
    assert done.returncode == (3 if refused else 0), done.stderr.decode()
    assert bool(found["refused"]) == refused
    missing = {process["kind"]: set(process["missing"]) for process in found["processes"]}
    assert missing == {
        "zygote": situation.lost,
        "web_content": situation.lost | situation.lost_with_fonts,
        "plugin_host": situation.lost | situation.lost_with_fonts,
        "request_server": situation.lost,
        "image_decoder": situation.lost,
        "lookup_server": situation.lost - {Layer.NETWORK_NAMESPACE},
    }
    told = {layer["name"]: layer["sentence"] for layer in found["layers"] if not layer["available"]}
    assert set(told) == situation.lost
    assert not situation.lost or any(situation.said in sentence for sentence in told.values()), told


BROWSES = [
    "a user who may make no user namespace",
    "root that may make no network namespace",
    "root where mounts are refused",
    "root in Docker",
    "a restricted pod",
    "root of a container with no other user",
    "a user without /proc",
    "no Landlock in the kernel",
]


@pytest.mark.parametrize("name", BROWSES)
def test_a_page_with_an_image_is_shown(name: str, picture: str) -> None:
    situation = SITUATIONS[name]
    needs(situation)
    degraded = ["degraded"] if Layer.LANDLOCK in situation.lost else []
    done = run(situation.make, "-c", BROWSE, picture, *degraded)
    assert done.returncode == 0, done.stderr.decode()
    with Image.open(io.BytesIO(done.stdout)) as shown:
        assert shown.size == (40, 30)
        assert shown.convert("RGB").getpixel((20, 15)) == (255, 0, 0)


def complaint(make: Make) -> str:
    """What ``cloister text`` says where it cannot run: one line, and the exit code of a failure."""
    done = run(make, "-m", "cloister", "text", "/dev/null")
    assert done.returncode == 1, done
    assert done.stderr.startswith(b"cloister: ")
    assert done.stderr.strip().count(b"\n") == 0, done.stderr.decode()
    return done.stderr.decode()


def test_a_kernel_without_pidfds_is_refused_in_one_line_that_says_since_when_there_are() -> None:
    assert "5.3" in complaint(kernel_without("pidfd_open", errno.ENOSYS))


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_a_user_who_may_start_too_few_processes_is_told_so_in_one_line(processes: int) -> None:
    if not ROOT:
        pytest.skip("only root can become a user of whom there is no other process")
    make = user(limit(resource.RLIMIT_NPROC, processes))
    said = complaint(make)
    assert "Resource temporarily unavailable" in said or "ulimit -u" in said


@pytest.mark.parametrize("descriptors", [8, 12, 16, 20])
def test_a_program_that_may_open_too_few_files_is_told_so_in_one_line(descriptors: int) -> None:
    assert "ulimit -n" in complaint(limit(resource.RLIMIT_NOFILE, descriptors))
