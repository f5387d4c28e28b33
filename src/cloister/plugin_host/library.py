"""The standard library, as plugins may import it: its own files, and nothing that was installed beside it."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ["Finder", "folders_of", "import_all", "paths"]

# site-packages is in the folder of the standard library where Python was built from source, and what is installed
# there is not the plugin's business. The rest draws windows, installs things, or is there to test Python itself.
_LEFT_OUT: Final = frozenset({
    "site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3",
    "ensurepip", "venv", "lib-dynload",
})  # fmt: skip

# What has parts in C that are files of their own: code cannot be loaded after lock-down. With what most plugins
# import, so that they share it.
_AHEAD: Final = (
    "_ctypes", "array", "ast", "base64", "binascii", "bisect", "bz2", "calendar", "cmath", "collections.abc",
    "contextlib", "contextvars", "copy", "csv", "ctypes", "dataclasses", "datetime", "decimal", "difflib", "enum",
    "fractions", "functools", "glob", "gzip", "hashlib", "heapq", "hmac", "html", "io", "itertools", "json",
    "logging", "lzma", "math", "mmap", "operator", "pathlib", "pickle", "pprint", "queue", "random", "re",
    "reprlib", "secrets", "select", "shutil", "statistics", "string", "struct", "tempfile", "textwrap",
    "threading", "time", "traceback", "typing", "unicodedata", "urllib.parse", "uuid", "warnings",
    "xml.etree.ElementTree", "zlib", "zoneinfo", "_strptime", "encodings.idna", "encodings.latin_1",
    "encodings.utf_16", "encodings.cp1252",
)  # fmt: skip


def paths() -> tuple[str, ...]:
    """Every file and folder of the standard library that a plugin may read."""
    found = []
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        found += [entry.path for entry in os.scandir(folder) if not _is_left_out(entry)]
    return tuple(sorted(found))


def _is_left_out(entry: os.DirEntry[str]) -> bool:
    is_code = entry.name.endswith(".py") or entry.is_dir()
    return entry.name in _LEFT_OUT or entry.name.startswith("config-") or not is_code


def import_all(modules: Iterable[str]) -> None:
    """What cannot be imported later, and ``modules``. A part of Python that is not there is left out.

    Raises:
        ImportError: one of ``modules`` is not there.
    """
    for name in _AHEAD:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # Python was built without it
    # A library that starts threads when it is imported could not be forked; these do.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[variable] = "1"
    for name in modules:
        importlib.import_module(name)


def folders_of(modules: Iterable[str]) -> tuple[str, ...]:
    """The folders of those of ``modules`` that are packages, for what they import later."""
    tops = {name.partition(".")[0] for name in modules}
    return tuple(sorted(path for name in tops for path in getattr(sys.modules[name], "__path__", ())))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the top-level modules of the standard library by a list that was made ahead: the folder that they are in
    cannot be listed. What is in packages is found as ever."""

    def __init__(self, places: Mapping[str, tuple[str, bool]]) -> None:
        """``places`` are file and whether it is a package, by name."""
        self._places = places

    @classmethod
    def of(cls, files: Iterable[str]) -> Finder:
        places: dict[str, tuple[str, bool]] = {}
        for each in map(Path, files):
            if each.suffix == ".py":
                places[each.stem] = (str(each), False)
            elif (each / "__init__.py").is_file():
                places[each.name] = (str(each / "__init__.py"), True)
        return cls(places)

    def install(self) -> None:
        """From now on nothing else is found but what is built in, and what is in packages that are found."""
        sys.path.clear()
        sys.path_importer_cache.clear()
        sys.argv[:] = [""]  # where Cloister is installed is none of its business
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, self, PathFinder]
        sys.dont_write_bytecode = True
        # The call is not allowed, and libraries ask for it to make a name absolute; the folder is the root, always.
        os.getcwd = lambda: "/"
        os.getcwdb = lambda: b"/"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self._places.get(fullname) if path is None else None
        if place is None:
            return None
        file, is_package = place
        inside = [os.path.dirname(file)] if is_package else None  # noqa: PTH120 - str is what importlib wants
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=inside)
