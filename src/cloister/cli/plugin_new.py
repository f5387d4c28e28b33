"""``cloister plugin new``: a plugin to begin with, which passes its own tests."""

from __future__ import annotations

import keyword
import re
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cloister.errors import printable

from .failure import USAGE, CommandError

__all__ = ["new"]

_MANIFEST: Final = """\
name = "{name}"
version = "0.1.0"
api-version = "1.0"
source = "{source}"
language = "{language}"
exports = ["{export}"]
description = "What it does, in a sentence"

[limits]
memory = "64 MiB"
timeout = 5

# It computes, and reaches nothing. What it needs besides, its host has to grant:
# [capabilities]
# "fs:read" = ["/srv/data"]
"""

_README: Final = """\
# {name}

A plugin for Cloister: it runs in a process of its own, which reaches nothing that it was not granted.

    cloister plugin check .
    cloister plugin test .
    cloister plugin run . {export} {example}

From Python:

    from cloister import PluginRuntime

    with PluginRuntime() as runtime:
        runtime.load("plugin.toml")
        print(runtime.call("{name}", "{export}", {argument}))
"""

_PYTHON: Final = '''\
"""What it does, in a sentence."""


def greet(who):
    return f"Hello, {who}!"
'''

_PYTHON_TEST: Final = """\
from {module} import greet


def test_greets_by_name():
    assert greet("you") == "Hello, you!"
"""


def new(arguments: Namespace) -> int:
    """Make the folder; 2 if there is something in its place."""
    name: str = arguments.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise CommandError(f"{printable(name, 100)}: a name has small letters, digits and hyphens", USAGE)
    module = name.replace("-", "_")
    values, files = _files(arguments.language, name, module)
    folder: Path = arguments.path or Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise CommandError(
            f"{printable(str(folder), 200)}: is there already; nothing is overwritten", USAGE
        ) from None
    except OSError as error:
        raise CommandError(f"{printable(str(folder), 200)}: {error.strerror}", USAGE) from None
    for file, text in {"plugin.toml": _MANIFEST, "README.md": _README, **files}.items():
        data = text if isinstance(text, bytes) else _filled(text, values).encode()
        (folder / file).write_bytes(data)
        print(folder / file)
    return 0


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{([a-z]+)\}", lambda found: values.get(found[1], found[0]), template)


def _files(language: str, name: str, module: str) -> tuple[dict[str, str], dict[str, str | bytes]]:
    """What is filled into the texts, and the files besides those that every plugin has."""
    values = {"name": name, "module": module, "language": language}
    values |= {"export": "greet", "example": "you", "argument": '"you"'}
    if not module.isidentifier() or keyword.iskeyword(module) or module in {*sys.stdlib_module_names, "host"}:
        raise CommandError(
            f"{name}: its module would be called {module}, which Python has no room for", USAGE
        )
    values["source"] = f"{module}.py"
    return values, {f"{module}.py": _PYTHON, f"test_{module}.py": _PYTHON_TEST}
