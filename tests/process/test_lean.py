"""Libraries without what they can do without."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cloister import interfaces
from cloister.process import lean

EARLY = (
    "contextlib",
    "collections",
    "functools",
    "importlib",
    "typing",
    "re",
    "enum",
    "socket",
    "signal",
    "msgspec",
    "asyncio",
)


def test_inside_a_library_is_not_there_and_afterwards_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_library.py").write_text("it_is = 'here'")
    monkeypatch.syspath_prepend(tmp_path)
    with lean.without("a_library"), pytest.raises(ImportError):
        importlib.import_module("a_library")
    assert importlib.import_module("a_library").it_is == "here"


def test_a_library_that_is_there_already_stays() -> None:
    with lean.without("subprocess"):
        import subprocess as inside
    assert inside is subprocess


def test_a_failure_inside_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), lean.without("chunk_of_nothing"):
        raise ZeroDivisionError
    assert "chunk_of_nothing" not in sys.modules


def test_what_begins_a_zygote_loads_nothing_that_takes_time() -> None:
    code = "import sys, cloister.process.early, cloister.process.kinds; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    more = set(done.stdout.split()) - set(bare.stdout.split())
    assert not more & set(EARLY), more


def test_children_that_speak_no_tls_do_not_have_it_in_memory() -> None:
    """The trunk of a zygote, as its main() makes it."""
    code = (
        "import sys\n"
        "from cloister.process import lean\n"
        "lean.load_msgspec()\n"
        "with lean.without('ssl'):\n"
        "    import cloister.ipc.service, cloister.process.zygote\n"
        "import cloister.web_content.main, cloister.lookup_server.main\n"
        "assert 'ssl' not in sys.modules\n"
        "import cloister.request_server.main\n"
        "assert 'ssl' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], timeout=30, check=True)


def test_msgspec_is_loaded_without_what_another_package_has_brought_along() -> None:
    code = (
        "import sys\n"
        "from cloister.process import lean\n"
        "lean.load_msgspec()\n"
        "assert 'typing_extensions' not in sys.modules\n"
        "import typing_extensions\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], timeout=30, check=True)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from Python 3.13 on a dataclass is compiled at once")
def test_a_dataclass_of_a_library_needs_no_module_for_the_docstring_that_it_has_not() -> None:
    with lean.lazy_dataclasses():

        @dataclasses.dataclass
        class Undescribed:
            name: str

    assert Undescribed.__doc__ == "Undescribed(...)"
    assert dataclasses.inspect.signature(Undescribed)  # type: ignore[attr-defined]


def _record(**options: bool) -> type:
    @dataclasses.dataclass(**options)
    class Record:
        name: str
        sizes: list[int] = dataclasses.field(default_factory=list)

    return Record


@pytest.mark.parametrize(
    "options", [{}, {"frozen": True}, {"frozen": True, "slots": True}, {"order": True, "kw_only": True}]
)
def test_a_dataclass_that_is_compiled_when_it_is_used_is_as_any_other(options: dict[str, bool]) -> None:
    usual = _record(**options)
    with lean.lazy_dataclasses():
        lazy = _record(**options)
    for kind in (usual, lazy):
        one, same, other = kind(name="a", sizes=[1]), kind(name="a", sizes=[1]), kind(name="b")
        assert one == same != other
        assert repr(other).endswith("Record(name='b', sizes=[])")
        assert dataclasses.replace(other, name="a").name == "a"
        with pytest.raises(TypeError, match="name"):
            kind(sizes=[])
        if options.get("order"):
            assert one < other
        if options.get("frozen"):
            with pytest.raises(dataclasses.FrozenInstanceError):
                one.name = "c"
            with pytest.raises(TypeError, match="unhashable"):  # the list
                hash(one)
    assert {name for name in vars(lazy) if name != "__doc__"} == {
        name for name in vars(usual) if name != "__doc__"
    }


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from Python 3.13 on a dataclass is compiled at once")
def test_a_method_that_nobody_calls_is_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_method = dataclasses._create_fn  # type: ignore[attr-defined]

    def compiling(name: str, *rest: object, **more: object) -> object:
        compiled.append(name)
        return compile_method(name, *rest, **more)

    monkeypatch.setattr(dataclasses, "_create_fn", compiling)
    with lean.lazy_dataclasses():
        kind = _record()
        assert compiled == []
        kind("a"), kind("b")
    assert compiled == ["__init__"]
    assert dataclasses._create_fn is compiling  # type: ignore[attr-defined]


def test_no_annotation_of_a_message_is_left_to_be_compiled_in_each_process() -> None:
    modules = [
        importlib.import_module(f"{interfaces.__name__}.{module.name}")
        for module in pkgutil.iter_modules(interfaces.__path__)
    ]
    messages = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    }
    assert len(messages) > 100
    texts = [
        (each, note) for each in messages for note in each.__annotations__.values() if isinstance(note, str)
    ]
    assert texts == []
