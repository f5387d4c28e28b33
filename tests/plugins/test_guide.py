"""docs/plugins.md: what it shows runs, and says what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloister.plugins import capabilities
from cloister.plugins.limits import DEFAULTS, Limits
from cloister.plugins.manifest import parse
from cloister.plugins.shared_runtime import close_shared

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_first_minute_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON[0], "guide", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("HELLO!\nAttributeError Traceback")
    assert shown.endswith("AGAIN!\n")


def test_the_function_runs() -> None:
    names: dict[str, Any] = {"untrusted": "[1, 2]"}
    exec(compile(PYTHON[1] + "\nfound = parse(untrusted)\n", "guide", "exec"), names)
    assert names["found"] == [1, 2]
    close_shared()


def test_the_manifest_holds() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert parse(text).name == "csv-cleaner"


def test_every_limit_and_every_capability_is_told() -> None:
    for name in Limits.__struct_fields__:
        assert f"| `{name}`" in GUIDE, name
    for name in capabilities.ABOUT:
        assert f"`{name}`" in GUIDE, name
    for name, told in {
        "memory": "256 MiB",
        "result": "8 MiB",
        "file_size": "64 MiB",
        "output": "1 MiB",
    }.items():
        assert DEFAULTS.bytes_of(name) == int(told.split()[0]) * 2**20
        assert re.search(rf"\| `{name}`[^|]*\| {told} \|", GUIDE), name
