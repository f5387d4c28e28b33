"""Memory that a plugin may write to is its host's to give, and nobody is harmed by what it does to it."""

from __future__ import annotations

import pytest

from cloister.errors import PluginRaised
from cloister.ipc.shared_buffer import SharedBuffer
from cloister.plugins.runtime import PluginRuntime

CODE = """
import ctypes, errno

kept = []

def fill(x, value):
    kept.append(x)
    for i in range(4): x[i] = value
    return x.readonly

def later(value): kept[-1][0] = value

def same(x): return x

def make_writable(x):
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mprotect(ctypes.c_void_p(address(x)), 4096, 3), errno.errorcode.get(ctypes.get_errno())

def address(x):
    class Py_buffer(ctypes.Structure):
        _fields_ = [('buf', ctypes.c_void_p), ('obj', ctypes.py_object), ('rest', ctypes.c_char * 96)]
    found = Py_buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(x), ctypes.byref(found), 0)
    return found.buf
"""


def test_who_was_granted_shm_writes_where_the_host_reads(runtime: PluginRuntime) -> None:
    plugin = runtime.load_source(CODE, "writer", grants={"shm": []})
    shared = SharedBuffer(2**20)
    assert plugin.call("fill", shared, 7) is False
    assert shared[:5] == b"\7\7\7\7\0"
    plugin.call("later", 9)
    assert shared[0] == 9, "also when it is not its turn with it"
    assert bytes(plugin.call("same", shared)[:2]) == b"\x09\7", "what comes back is a copy"


def test_who_was_not_reads_the_same_memory(runtime: PluginRuntime) -> None:
    shared = SharedBuffer(2**20)
    writer = runtime.load_source(CODE, "writer", grants={"shm": []})
    reader = runtime.load_source(CODE, "reader")
    writer.call("fill", shared, 7)
    assert bytes(reader.call("same", shared)[:4]) == b"\7\7\7\7"
    with pytest.raises(PluginRaised, match="read-only"):
        reader.call("fill", shared, 8)


def test_what_is_read_cannot_be_made_writable(runtime: PluginRuntime) -> None:
    assert runtime.load_source(CODE, "reader").call("make_writable", SharedBuffer(2**20)) == [-1, "EACCES"]


def test_only_shared_buffers_arrive_writable(runtime: PluginRuntime) -> None:
    plugin = runtime.load_source(CODE, "writer", grants={"shm": []})
    with pytest.raises(PluginRaised, match="read-only"):
        plugin.call("fill", bytearray(200_000), 1)
    shared = SharedBuffer(2**20)
    with pytest.raises(PluginRaised, match="read-only"):
        plugin.call("fill", memoryview(shared)[: 2**19], 1)
