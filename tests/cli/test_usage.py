"""What the command does with a command line that it cannot follow, before any page is opened."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli.command import build_parser

HEAVY = (
    "cloister.browser",
    "cloister.ipc",
    "rich",
    "typer",
    "PIL",
    "plutoprint",
    "turbohtml",
    "h2",
    "asyncio",
)


def cloister(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cloister", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("fly", "example.org"), "fly"),
        (("screenshot",), "URL|FILE|-"),
        (("screenshot", "x", "--viewport", "wide"), "'wide' is not WIDTHxHEIGHT"),
        (("screenshot", "x", "--viewport", "0x900"), "between 1 and 16384"),
        (("screenshot", "x", "--viewport", "1200x99999999"), "between 1 and 16384"),
        (("pdf", "x", "--timeout", "soon"), "'soon' is not a number of seconds"),
        (("pdf", "x", "--timeout", "nan"), "between 0.001 and 86400"),
        (("pdf", "x", "--timeout", "-1"), "between 0.001 and 86400"),
        (("text", "x", "--format", "rtf"), "rtf"),
        (("screenshot", "x", "-o", "/nowhere/at/all.png"), "/nowhere/at/all.png: there is no folder"),
        (("screenshot", "x", "-o", "/"), "/: is a folder"),
        (("text", "x", "--allow-host", "http://localhost/"), "allow_hosts: "),
        (("text", "x", "--proxy", "socks4://localhost"), "socks4:// is not one of"),
        (("text", "x", "--proxy", "http://localhost/path"), "server is http://HOST:PORT"),
        (("text", "x", "--dns-server", "dns.example"), "dns_servers: 'dns.example'"),
        (("text", "x", "--dns-server", "tls://dns.example"), "dns_servers: 'tls://dns.example'"),
        (("--subprocess-kind=mole",), "unknown kind of process 'mole'"),
        (("--subprocess-kind", "zygote"), "--subprocess-kind"),
    ],
)
def test_a_mistake_in_the_command_line_is_named_and_ends_with_2(
    arguments: tuple[str, ...], words: str
) -> None:
    done = cloister(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_help_and_version_go_to_standard_output() -> None:
    assert cloister("--version").stdout.startswith(b"cloister ")
    said = cloister("--help").stdout.decode()
    for name in (
        "screenshot",
        "pdf",
        "text",
        "links",
        "decode",
        "download",
        "fetch",
        "demo",
        "doctor",
        "crashes",
        "plugin",
        "portal",
        "top",
    ):
        assert name in said
    assert "subprocess-kind" not in said


@pytest.mark.parametrize(
    ("flags", "said", "unsaid"),
    [
        ((), (), ("cloister.",)),
        (("-v",), ("cloister.browser: the browser started",), ("cloister.process",)),
        (("-vv",), ("cloister.browser: the browser started", "cloister.process: zygote "), ()),
    ],
)
def test_verbose_says_on_standard_error_what_goes_on(
    flags: tuple[str, ...], said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    done = cloister("text", "-", *flags, stdin=b"<p>words")
    assert (done.returncode, done.stdout) == (0, b"words\n")
    told = done.stderr.decode()
    assert all(words in told for words in said)
    assert not any(words in told for words in unsaid)


def test_the_library_alone_says_nothing_on_standard_error() -> None:
    code = (
        "import logging, cloister.browser\n"
        "logging.getLogger('cloister.process').error('x')\n"
        "assert [type(h).__name__ for h in logging.getLogger('cloister').handlers] == ['NullHandler']\n"
        "assert not logging.getLogger().handlers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_help_says_how_a_bare_name_is_read() -> None:
    assert "https://example.org" in cloister("screenshot", "--help").stdout.decode()


@pytest.mark.parametrize("command", ["screenshot", "pdf", "decode"])
def test_binary_data_is_not_written_to_a_terminal(command: str) -> None:
    ours, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cloister", command, "x"],
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 2
    assert b"-o OUT" in done.stderr


def test_nothing_heavy_is_imported_before_the_command_is_known() -> None:
    code = (
        "import sys, json, cloister.cli.command as c; c.build_parser(); print(json.dumps(list(sys.modules)))"
    )
    loaded = set(
        json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True).stdout
        )
    )
    assert not [name for name in HEAVY if name in loaded]


@pytest.mark.parametrize(
    "name", ["screenshot", "text", "decode", "fetch", "download", "doctor", "plugin", "top"]
)
def test_a_command_has_the_same_options_when_it_is_the_only_one_that_is_built(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = []
    for only in (None, name):
        with pytest.raises(SystemExit):
            build_parser(only).parse_args([name, "--help"])
        helps.append(capsys.readouterr().out)
    assert helps[0] == helps[1]
    assert "--help" in helps[0]


@pytest.mark.parametrize("command", ["screenshot", "decode"])
def test_a_file_that_is_not_there_is_named_and_ends_with_1(command: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.html")
    done = cloister(command, missing, "-o", str(tmp_path / "out.png"))
    assert done.returncode == 1
    assert done.stderr.decode() == f"cloister: {missing}: there is no such file\n"
    assert list(tmp_path.iterdir()) == []
