"""Profiles: grants and limits that go together; and what of the kernel's isolation a host may give up by one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import CapabilityRefused, InvalidArgument
from cloister.plugins.capabilities import ABOUT
from cloister.plugins.limits import Limits
from cloister.plugins.namespaces import Namespaces
from cloister.plugins.plugin import Plugin
from cloister.plugins.profiles import PROFILES, Profile
from cloister.plugins.runtime import PluginRuntime
from cloister.sandbox import NAMESPACES, Layer, Machine, machine
from cloister.sandbox.privileges import capability_bits

CODE = """
import os
def variables(): return dict(os.environ)
def opens(path, flags=0):
    try: os.close(os.open(path, flags, 0o600))
    except OSError as error: return error.errno
    return 0
def chmod(path):
    try: os.chmod(path, 0o777)
    except OSError as error: return error.errno
    return 0
"""


@pytest.fixture(scope="module")
def here() -> Machine:
    return machine()


def test_a_profile_of_cloisters_has_a_name_and_makes_sense() -> None:
    assert set(PROFILES) == {"terminal", "observability", "orchestration"}
    for profile in PROFILES.values():
        assert set(profile.grants) <= set(ABOUT)
        assert not [name for name in profile.grants if name.startswith(("fs:", "net:", "sys:exec"))]
        assert profile.keep == ()
        assert profile.namespaces == Namespaces()
        for name, most in (("memory", 128 << 20), ("timeout", 300), ("disk", 64 << 20)):
            limit = getattr(profile.limits, name)
            assert limit is not None
            assert limit <= most


def test_its_grants_join_with_those_of_load(runtime: PluginRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TERM", "dumb"), ("COLUMNS", "80"), ("CLOISTER_TEST", "yes"), ("SECRET", "no")):
        monkeypatch.setenv(name, value)
    plugin = runtime.load_source(CODE, "shown", profile="terminal", grants={"sys:env": ["CLOISTER_TEST"]})
    seen = plugin.call("variables")
    assert (seen["TERM"], seen["COLUMNS"], seen["CLOISTER_TEST"]) == ("dumb", "80", "yes")
    assert "SECRET" not in seen


def test_its_limits_go_before_the_runtimes_and_after_those_of_load(runtime: PluginRuntime) -> None:
    mine = Profile("mine", limits=Limits(timeout=7, memory="40 MiB"))
    limits = runtime.load_source(CODE, "held", profile=mine, limits=Limits(memory="50 MiB")).spec.limits
    assert (limits.timeout, limits.memory, limits.open_files) == (7, 50 << 20, 32)
    with PluginRuntime(limits=Limits(timeout=9, result=1000)) as other:
        limits = other.load_source(CODE, "held", profile=mine).spec.limits
    assert (limits.timeout, limits.memory, limits.result) == (7, 40 << 20, 1000)


def test_a_manifest_has_to_ask_for_what_a_profile_gives(
    runtime: PluginRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "plugin.toml").write_text(
        'name = "asks"\nversion = "1.0.0"\napi-version = "1.0"\nsource = "code.py"\nlanguage = "python"\n'
        'exports = ["variables"]\n[capabilities]\n"sys:env" = ["TERM"]\n[limits]\ntimeout = 99\nmemory = "1 MiB"\n'
    )
    monkeypatch.setenv("COLUMNS", "80")
    plugin = runtime.load(tmp_path / "plugin.toml", profile="terminal")
    seen = plugin.call("variables")
    assert "TERM" in seen
    assert "COLUMNS" not in seen
    assert (plugin.spec.limits.timeout, plugin.spec.limits.memory) == (10.0, 1 << 20)


def test_what_does_not_exist_is_refused(runtime: PluginRuntime) -> None:
    with pytest.raises(InvalidArgument, match="no profile 'root'; there are terminal, observability"):
        runtime.load_source(CODE, "refused", profile="root")
    with pytest.raises(CapabilityRefused, match="no capability"):
        runtime.load_source(CODE, "refused", profile=Profile("mine", {"fs:everything": ()}))
    with pytest.raises(InvalidArgument, match="no Linux capability: CAP_EVERYTHING"):
        runtime.load_source(CODE, "refused", profile=Profile("mine", keep=("CAP_EVERYTHING",)))
    assert runtime.plugins == ()


def test_every_profile_can_be_given(runtime: PluginRuntime) -> None:
    for name in PROFILES:
        assert runtime.load_source(CODE, name, profile=name).exports


# ── what may be given up ─────────────────────────────────────────────────────────────────────────────────────────


def test_each_namespace_is_given_up_by_its_own_name() -> None:
    assert Namespaces().shared == ()
    for name, layer in (
        ("pid", Layer.PID_NAMESPACE),
        ("net", Layer.NETWORK_NAMESPACE),
        ("mnt", Layer.MOUNT_NAMESPACE),
        ("ipc", Layer.IPC_NAMESPACE),
        ("uts", Layer.UTS_NAMESPACE),
    ):
        assert Namespaces(**{name: False}).shared == (layer.value,)


def test_namespaces_that_were_given_up_are_the_hosts_and_the_rest_holds(
    runtime: PluginRuntime, here: Machine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    tmp_path.chmod(0o755)
    shared = Namespaces(pid=False, net=False, mnt=False, ipc=False, uts=False)
    plugin = runtime.load_source(CODE, "shares", profile=Profile("open", namespaces=shared))
    layers = {Layer(layer) for layer in plugin.report.layers}
    assert layers == here.available - (NAMESPACES - {Layer.USER_NAMESPACE}) - {Layer.EMPTY_ROOT}
    assert {Layer(layer) for layer in plugin.report.missing} == (
        set(Layer) - here.available - (NAMESPACES - {Layer.USER_NAMESPACE}) - {Layer.EMPTY_ROOT}
    )
    if os.geteuid() == 0:  # nobody else may look
        for name in ("pid", "net", "mnt", "ipc", "uts"):
            assert same_namespace(plugin, name), name
        if Layer.USER_NAMESPACE in here.available:
            assert not same_namespace(plugin, "user")
    for path in ("/etc/passwd", "/proc/self/status", str(tmp_path / "file")):
        assert plugin.call("opens", path) == errno.EACCES
    assert plugin.call("opens", str(tmp_path / "new"), os.O_CREAT | os.O_WRONLY) == errno.EPERM


def same_namespace(plugin: Plugin, name: str) -> bool:
    return os.readlink(f"/proc/{plugin.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that its own user may not write in, unless with a capability."""
    tmp_path.chmod(0o555)
    yield tmp_path
    tmp_path.chmod(0o755)


def test_a_capability_that_is_kept_is_one_within_what_was_granted(
    runtime: PluginRuntime, here: Machine, closed: Path
) -> None:
    if Layer.USER_NAMESPACE not in here.available:
        pytest.skip("this machine allows this user no user namespace")
    keep = ("CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_BPF")
    plugin = runtime.load_source(
        CODE, "keeps", grants={"fs:write": [str(closed)]}, profile=Profile("mine", keep=keep)
    )
    held = dict(re.findall(r"Cap(\w+):\t([0-9a-f]+)", Path(f"/proc/{plugin.pid}/status").read_text()))
    bits = capability_bits(keep)
    assert {name: int(value, 16) for name, value in held.items()} == {
        "Eff": bits, "Prm": bits, "Inh": 0, "Bnd": 0, "Amb": 0
    }  # fmt: skip
    writing = os.O_CREAT | os.O_WRONLY
    assert plugin.call("opens", str(closed / "new"), writing) == 0
    assert plugin.call("chmod", str(closed)) == errno.EPERM, "the filter stands"
    outside = str(closed.parent / "outside")
    assert plugin.call("opens", outside, writing) in (errno.EACCES, errno.EROFS, errno.ENOENT)
    assert not Path(outside).exists()
