"""Runs the tests of a plugin inside its own process.

Nothing imports this: ``cloister plugin test`` sends its text as the source of a plugin, and the plugin's own source and
tests as arguments. So it stands on the standard library alone.
"""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["names", "run"]

Files = dict[str, bytes]


def names(name: str, source: str, code: bytes, tests: Files) -> list[list[str]]:
    """Each test: its file, and the function. ``source`` is the name of the file that ``code`` is from."""
    _module(f"<plugin {name}>", code, name.replace("-", "_"), source.removesuffix(".py"))
    found = []
    for file, text in tests.items():
        module = _module(file, text, file.removesuffix(".py"))
        for each, value in vars(module).items():
            if each.startswith("test") and callable(value) and value.__module__ == module.__name__:
                found.append([file, each])
    return found


def run(what: tuple[str, str, bytes, Files], file: str, test: str) -> dict[str, Any] | None:
    """Run one test of ``what`` names() takes. None if it passes; else what was wrong, and where in its file."""
    name, source, code, tests = what
    names(name, source, code, {file: tests[file]})
    function: Callable[[], object] = getattr(sys.modules[file.removesuffix(".py")], test)
    try:
        function()
    except unittest.SkipTest as why:
        return {"skipped": True, "what": str(why)[:2000]}
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        return _failure(error, file)
    return None


def _failure(error: BaseException, file: str) -> dict[str, Any]:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("run") is run:
        trace = trace.tb_next  # without this file's own lines
    error.__traceback__ = trace
    places = traceback.extract_tb(trace)
    inside = not places or places[-1].filename == file  # then its line says it all
    where = next((place for place in reversed(places) if place.filename == file), None)
    return {
        "what": f"{type(error).__name__}: {error}"[:2000],
        "line": (where.lineno or 0) if where is not None else 0,
        "code": (where.line or "")[:500] if where is not None else "",
        "traceback": "" if inside else "".join(traceback.format_exception(error))[-30_000:],
    }


def _module(file: str, text: bytes, *known_as: str) -> ModuleType:
    module = ModuleType(known_as[0])
    module.__file__ = file
    for name in known_as:
        sys.modules[name] = module
    lines = text.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[file] = (len(text), None, lines, file)
    tree = ast.parse(text, file)
    if file.startswith("test"):
        tree = ast.fix_missing_locations(_Asserts().visit(tree))
    exec(compile(tree, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this process is for
    return module


class _Asserts(ast.NodeTransformer):
    """``assert a == b`` says what both were."""

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        compared = node.test
        if node.msg is not None or not isinstance(compared, ast.Compare) or len(compared.ops) != 1:
            return node
        sign = ast.unparse(ast.Compare(ast.Name("a"), compared.ops, [ast.Name("b")]))[1:-1]
        sides = compared.left, compared.comparators[0]
        kept = [
            ast.NamedExpr(ast.Name(name, ast.Store()), side)
            for name, side in zip(("_left", "_right"), sides, strict=True)
        ]
        shown = [ast.FormattedValue(ast.Name(name, ast.Load()), ord("r")) for name in ("_left", "_right")]
        said = ast.JoinedStr([ast.Constant("not "), shown[0], ast.Constant(sign), shown[1]])
        made = ast.Assert(ast.Compare(kept[0], compared.ops, [kept[1]]), said)
        return ast.copy_location(made, node)
