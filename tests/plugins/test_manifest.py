"""A manifest: what holds, and which key on which line does not."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import CloisterError, DependencyError, InvalidArgument, ManifestError
from cloister.interfaces.plugin_host import Language
from cloister.plugins.limits import DEFAULTS, Limits
from cloister.plugins.manifest import Manifest, load_order, parse, read, read_source
from cloister.plugins.versions import Range, Version

GOOD = """\
name = "csv-cleaner"
version = "1.4.0"
api-version = "1.0"
description = "Takes what is wrong out of CSV files"
authors = ["A. Person"]
licence = "MIT"
source = "cleaner.py"
language = "python"
exports = ["clean", "check"]
tags = ["csv"]

[capabilities]
"fs:read" = ["/srv/data"]

[dependencies]
tables = "^2.1"

[metadata]
rank = 3

[limits]
memory = "50 MiB"
timeout = 5
"""


def test_a_good_one_says_what_it_says() -> None:
    manifest = parse(GOOD)
    assert manifest.name == "csv-cleaner"
    assert manifest.exports == ("clean", "check")
    assert manifest.capabilities == {"fs:read": ("/srv/data",)}
    assert manifest.limits == Limits(memory=50 * 2**20, timeout=5)
    assert manifest.metadata == {"rank": 3}


def test_json_says_the_same(tmp_path: Path) -> None:
    import tomllib

    file = tmp_path / "plugin.json"
    file.write_text(json.dumps(tomllib.loads(GOOD), indent=2))
    assert read(file) == parse(GOOD)


@pytest.mark.parametrize(
    ("was", "now", "key", "line"),
    [
        ('name = "csv-cleaner"', 'name = "CSV"', "name", 1),
        ('name = "csv-cleaner"', 'name = "a\\n"', "name", 1),
        ('name = "csv-cleaner"', "", "name", None),
        ('version = "1.4.0"', 'version = "1.4"', "version", 2),
        ('version = "1.4.0"', 'version = "01.4.0"', "version", 2),
        ('api-version = "1.0"', 'api-version = "2.0"', "api-version", 3),
        ('api-version = "1.0"', 'api-version = "1.1"', "api-version", 3),
        ('api-version = "1.0"', 'api-version = "one"', "api-version", 3),
        ('source = "cleaner.py"', 'source = "../other.py"', "source", 7),
        ('source = "cleaner.py"', 'source = "/etc/passwd"', "source", 7),
        ('language = "python"', 'language = "perl"', "language", 8),
        ('exports = ["clean", "check"]', "exports = []", "exports", 9),
        ('exports = ["clean", "check"]', 'exports = ["clean", 3]', "exports", 9),
        ('tags = ["csv"]', 'colour = "blue"', "colour", 10),
        ('"fs:read" =', '"fs:everything" =', "capabilities", 12),
        ('tables = "^2.1"', 'tables = "new"', "dependencies.tables", 16),
        ("tables =", "csv-cleaner =", "dependencies.csv-cleaner", 16),
        ("timeout = 5", "timeout = -1", "limits.timeout", 23),
        ("timeout = 5", 'timeout = "soon"', "limits.timeout", 23),
        ("timeout = 5", "patience = 5", "limits.patience", 23),
        ('memory = "50 MiB"', 'memory = "much"', "limits.memory", 22),
    ],
)
def test_a_bad_one_is_refused_by_key_and_line(was: str, now: str, key: str, line: int | None) -> None:
    assert was in GOOD
    with pytest.raises(ManifestError) as caught:
        parse(GOOD.replace(was, now), "plugin.toml")
    assert (caught.value.key, caught.value.line) == (key, line)
    assert key in str(caught.value)
    assert str(caught.value).startswith("plugin.toml")


def test_a_line_in_json_is_found_too() -> None:
    text = '{\n "name": "x",\n "limits": {\n  "memory": []\n }}'
    with pytest.raises(ManifestError) as caught:
        parse(text, is_json=True)
    assert (caught.value.key, caught.value.line) == ("limits.memory", 4)


@pytest.mark.parametrize(
    ("text", "is_json"),
    [("name = ", False), ("[" * 100_000, False), ("a = " + "[" * 100_000, False), ("{", True),
     ("[" * 100_000, True), ("3", True), ("\0", False)],
)  # fmt: skip
def test_what_is_no_toml_or_json_is_a_manifest_error(text: str, is_json: bool) -> None:
    with pytest.raises(ManifestError):
        parse(text, is_json=is_json)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.booleans())
def test_any_text_is_a_manifest_or_a_manifest_error(text: str, is_json: bool) -> None:
    with contextlib.suppress(ManifestError):
        parse(text, is_json=is_json)


def test_only_a_file_in_its_folder_is_its_source(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    (tmp_path / "secret").write_text("password")
    (folder / "leads-out.py").symlink_to(tmp_path / "secret")
    (folder / "leads-in.py").symlink_to(folder / "code.py")
    (folder / "code.py").write_text("x = 1")
    os.mkfifo(folder / "pipe.py")
    (folder / "sub").mkdir()

    def source(name: str) -> bytes:
        return read_source(parse(GOOD.replace("cleaner.py", name)), folder)

    assert source("code.py") == source("leads-in.py") == b"x = 1"
    for name in ("leads-out.py", "pipe.py", "sub"):
        with pytest.raises(ManifestError):
            source(name)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "plugin.toml"
    file.write_text("#" * 300_000)
    with pytest.raises(ManifestError, match="more than"):
        read(file)


# ── versions and dependencies ────────────────────────────────────────────────────────────────────────────────────


def test_versions_are_ordered_as_semver_says() -> None:
    names = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
             "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0"]  # fmt: skip
    versions = [Version.parse(name) for name in names]
    assert sorted(Random(1).sample(versions, len(versions))) == versions
    assert [*map(str, versions)] == names
    assert Version.parse("1.0.0+build.5") == Version.parse("1.0.0")


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        ("^1.2", "1.2.0 1.9.9", "1.1.9 2.0.0 2.0.0-rc.1 1.3.0-rc.1"),
        ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0 1.0.0"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("^0", "0.0.0 0.9.0", "1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        (">=1.2, <2", "1.2.0 1.99.0", "2.0.0 1.1.0"),
        (">1.2.3", "1.2.4 2.0.0", "1.2.3"),
        ("<=1.2.3", "1.2.3 0.1.0", "1.2.4"),
        ("1.2", "1.2.0 1.2.7", "1.3.0"),
        ("=1.2.3", "1.2.3", "1.2.4"),
        (">=1.0.0-rc.1", "1.0.0-rc.1 1.0.0-rc.2 1.0.0", "1.0.0-beta"),
        ("*", "0.0.0 9.9.9", "1.0.0-rc.1"),
    ],
)
def test_ranges(wanted: str, inside: str, outside: str) -> None:
    found = Range(wanted)
    assert all(Version.parse(each) in found for each in inside.split())
    assert not any(Version.parse(each) in found for each in outside.split())


def manifest(name: str, version: str = "1.0.0", **dependencies: str) -> Manifest:
    return Manifest(
        name=name, version=version, api_version="1.0", source="a.py", language=Language.PYTHON, exports=("a",),
        dependencies=dependencies,
    )  # fmt: skip


def test_plugins_come_after_what_they_need() -> None:
    order = load_order(
        [manifest("a", b="^1", c="*"), manifest("b", c="1.0"), manifest("c", d=">=2")], {"d": "2.1.0"}
    )
    assert [each.name for each in order] == ["c", "b", "a"]


def test_circles_gaps_and_other_versions_are_told() -> None:
    with pytest.raises(DependencyError, match="a → b → c → a|b → c → a → b|c → a → b → c"):
        load_order([manifest("a", b="*"), manifest("b", c="*"), manifest("c", a="*")])
    with pytest.raises(DependencyError, match="needs b \\*, which is not there"):
        load_order([manifest("a", b="*")])
    with pytest.raises(DependencyError, match="needs b \\^2, and 1.0.0 is there"):
        load_order([manifest("a", b="^2"), manifest("b")])


def test_a_long_chain_of_dependencies_is_no_circle() -> None:
    chain = [manifest(f"p{n}", **{f"p{n + 1}": "*"}) for n in range(3000)] + [manifest("p3000")]
    assert len(load_order(chain)) == 3001


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_may_ask_for_less_but_not_for_more() -> None:
    host = Limits(memory="100 MiB", timeout=5).filled()
    got = Limits(memory="1 GiB", timeout=2, cpu_time=1, threads=True).within(host)
    assert (got.memory, got.timeout, got.cpu_time, got.threads) == (100 * 2**20, 2, 1, False)
    assert got.output == DEFAULTS.output


@pytest.mark.parametrize(
    "wrong",
    [{"memory": "lots"}, {"memory": -1}, {"timeout": 0}, {"cpu_percent": 0}, {"open_files": 3},
     {"cpu_time": float("nan")}],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Limits(**wrong)  # type: ignore[arg-type]


def test_every_manifest_error_is_a_cloister_error() -> None:
    assert issubclass(ManifestError, CloisterError)
    assert issubclass(DependencyError, CloisterError)
