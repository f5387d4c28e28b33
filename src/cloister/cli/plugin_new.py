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
from cloister.interfaces.plugin_host import Language

from .failure import USAGE, CommandError

__all__ = ["new"]

_MANIFEST: Final = """\
name = "{name}"
version = "0.1.0"
api-version = "1.0"
source = "{source}"
language = "{language}"
exports = [{exports}]
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

_JAVASCRIPT: Final = """\
// What it does, in a sentence.

export function greet(who) {
  return `Hello, ${who}!`;
}
"""

_JAVASCRIPT_TEST: Final = """\
// It comes after {source}, and sees all that is in it.

export function test_greets_by_name() {
  const said = greet("you");
  if (said !== "Hello, you!") throw new Error(said);
}
"""

_WASM_TEXT: Final = """\
;; What {source} was made of: wat2wasm {module}.wat, of WABT, makes it again.
(module
  (func $add (export "add") (param i32 i32) (result i32)
    local.get 0
    local.get 1
    i32.add)
  (func (export "test_adds")
    i32.const 2
    i32.const 3
    call $add
    i32.const 5
    i32.ne
    if
      unreachable
    end))
"""

_WASM: Final = bytes.fromhex(
    "0061736d01000000"  # magic number and version
    "010a0260027f7f017f600000"  # types of functions: two numbers to one, and nothing to nothing
    "0303020001"  # the functions, by type
    "071302036164640000"  # what is exported: add,
    "09746573745f616464730001"  # and test_adds
    "0a19020700200020016a0b0f004102410310004105470440000b0b"  # code
)

_EXECUTABLE: Final = '''\
#!/usr/bin/python3 -I
"""What it does, in a sentence. Any language does: calls are lines of JSON on standard input, answers such on output."""

import json
import sys


def greet(who):
    return f"Hello, {who}!"


def test_greets_by_name():
    assert greet("you") == "Hello, you!"


for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = {"type": "result", "value": globals()[call["function"]](*call["args"])}
    except Exception as error:
        answer = {"type": "error", "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
'''

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
    language = Language(arguments.language)
    if language is Language.PYTHON:
        _check_module(module)
    values, files = _files(language, name, module)
    folder: Path = arguments.path or Path(name)
    shown = printable(str(folder), 200)
    try:
        folder.mkdir()
        for file, text in {"plugin.toml": _MANIFEST, "README.md": _README, **files}.items():
            data = text if isinstance(text, bytes) else _filled(text, values).encode()
            (folder / file).write_bytes(data)
            print(f"{shown}/{file}")
        if language is Language.EXECUTABLE:
            (folder / values["source"]).chmod(0o755)
    except FileExistsError:
        raise CommandError(f"{shown}: is there already; nothing is overwritten", USAGE) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"{shown}: {error.strerror}", USAGE) from None
    return 0


def _filled(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{([a-z]+)\}", lambda found: values.get(found[1], found[0]), template)


def _files(language: Language, name: str, module: str) -> tuple[dict[str, str], dict[str, str | bytes]]:
    """What is filled into the texts, and the files besides those that every plugin has."""
    values = {"name": name, "module": module, "language": language.value}
    values |= {"export": "greet", "exports": '"greet"', "example": "you", "argument": '"you"'}
    match language:
        case Language.PYTHON:
            files: dict[str, str | bytes] = {f"{module}.py": _PYTHON, f"test_{module}.py": _PYTHON_TEST}
        case Language.JAVASCRIPT:
            files = {f"{module}.js": _JAVASCRIPT, f"test_{module}.js": _JAVASCRIPT_TEST}
        case Language.WASM:
            files = {f"{module}.wasm": _WASM, f"{module}.wat": _WASM_TEXT}
            values |= {"export": "add", "exports": '"add", "test_adds"', "example": "2 3", "argument": "2, 3"}
        case Language.EXECUTABLE:
            files = {module: _EXECUTABLE}
            values["exports"] = '"greet", "test_greets_by_name"'
    return {**values, "source": next(iter(files))}, files


def _check_module(module: str) -> None:
    taken = {*sys.stdlib_module_names, "host"}
    if not module.isidentifier() or keyword.iskeyword(module) or module in taken:
        raise CommandError(f"its module would be called {module}, which Python has no room for", USAGE)
