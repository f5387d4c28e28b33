"""``cloister plugin run``: one call of one function of a plugin, in its sandbox."""

from __future__ import annotations

import base64
import datetime
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from cloister.errors import printable
from cloister.plugins.plugin import Stream

from . import output
from .failure import USAGE, CommandError
from .plugin import FAILED, failures, find, loaded

__all__ = ["run"]

_MAX_INPUT: Final = 256 * 2**20
"""Bytes of one file that is handed over."""


def run(arguments: Namespace) -> int:
    """Call, print what comes of it; the exit code tells whose fault it is if nothing does."""
    manifest = find(arguments.path)
    given, named = _arguments(arguments)
    with failures() as codes, loaded(arguments, manifest) as (_, plugin):
        if arguments.function not in plugin.exports:
            there = ", ".join(plugin.exports)
            raise CommandError(
                f"{plugin.name} exports {there}: not {printable(arguments.function, 80)}", USAGE
            )
        result = plugin.call(arguments.function, *given, **named)
        show = _as_json if arguments.json else _as_it_is
        if not isinstance(result, Stream):
            show(result, None if arguments.json else 2)
            return 0
        with result:
            for each in result:
                show(each, None)
                sys.stdout.flush()
    return codes[0] if codes else 0


def _arguments(arguments: Namespace) -> tuple[list[Any], dict[str, Any]]:
    if arguments.args is None:
        return [_argument(text) for text in arguments.arguments], {}
    if arguments.arguments:
        raise CommandError("ARG and --args exclude each other", USAGE)
    try:
        found = json.loads(_read(arguments.args))
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--args {printable(arguments.args, 200)}: no JSON: {error}", USAGE) from None
    if isinstance(found, dict):
        return [], found
    if not isinstance(found, list):
        raise CommandError("--args: a list of arguments, or an object of named ones", USAGE)
    return found, {}


def _argument(text: str) -> Any:
    """The bytes of a file (``@FILE``), or JSON, or the text itself."""
    if text.startswith("@"):
        return _read(text[1:])
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read(name: str) -> bytes:
    """The bytes of a file, which nobody here looks into, or of standard input for ``-``."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_MAX_INPUT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_MAX_INPUT + 1)
    except OSError as error:
        raise CommandError(f"{printable(name, 200)}: {error.strerror}", USAGE) from None
    if len(data) > _MAX_INPUT:
        raise CommandError(f"{printable(name, 200)}: more than {_MAX_INPUT // 2**20} MiB", USAGE)
    return data


# ── what came of it: foreign, and of plain types ─────────────────────────────────────────────────────────────────


def _as_it_is(value: Any, indent: int | None) -> None:
    """Text and bytes as they are, anything else as JSON."""
    if isinstance(value, bytes | memoryview):
        if sys.stdout.isatty():
            raise CommandError("standard output: not writing binary data to a terminal", USAGE)
        sys.stdout.buffer.write(value)
        return
    text = value if isinstance(value, str) else _json(value, indent, as_ascii=False)
    output.write("-", f"{text}\n".encode(errors="replace"))


def _as_json(value: Any, indent: int | None) -> None:
    output.write("-", f"{_json(value, indent, as_ascii=True)}\n".encode())


def _json(value: Any, indent: int | None, *, as_ascii: bool) -> str:
    try:
        return json.dumps(_plain(value), indent=indent, ensure_ascii=as_ascii)
    except RecursionError:
        raise CommandError("the result nests too deep to be printed", FAILED) from None
    except ValueError as error:  # an int of more than 4300 digits
        raise CommandError(f"the result cannot be printed: {error}", FAILED) from None


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in Base64, times as ISO 8601 has them, arrays as lists, what is no number as null."""
    if isinstance(value, dict):
        return {_key(key): _plain(each) for key, each in value.items()}
    if isinstance(value, memoryview) and (value.format != "B" or value.ndim > 1):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(_plain(key))
