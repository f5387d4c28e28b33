"""Executable memory, and ways into the kernel that a filter by number may forget."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer
from cloister.sandbox.kernel import libc
from cloister.sandbox.syscalls import native

from .attempt import Harm, attempt
from .calls import ABSENT, call, closing, deny, foreign, forget
from .files import TREE

_READ: Final = 1
_WRITE: Final = 2
_EXEC: Final = 4
_SHARED: Final = 1
_PRIVATE: Final = 2
_FIXED: Final = 0x10
_ANONYMOUS: Final = 0x20
_PAGE: Final = mmap.PAGESIZE

_EXECUTABLE: Final = {errno.EACCES: Layer.NO_EXECUTABLE_MEMORY, errno.EPERM: Layer.NO_EXECUTABLE_MEMORY}


def _map(protection: int, flags: int = _PRIVATE | _ANONYMOUS, file: int = -1, address: int = 0) -> int:
    return call("mmap", address, _PAGE, protection, flags, file, 0)


def _unmap(address: int) -> None:
    call("munmap", address, _PAGE)


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def map_writable_code(_at: Targets) -> None:
    """Maps memory that is writable and executable."""
    _unmap(_map(_READ | _WRITE | _EXEC))


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def write_code_and_make_it_executable(_at: Targets) -> None:
    """Writes into memory, then makes it executable."""
    page = _map(_READ | _WRITE)
    try:
        ctypes.memset(page, 0xC3, 1)
        call("mprotect", page, _PAGE, _READ | _EXEC)
    finally:
        libc.munmap(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE))


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def make_code_executable_with_a_key(_at: Targets) -> None:
    """The same by pkey_mprotect(2)."""
    page = _map(_READ | _WRITE)
    try:
        call("pkey_mprotect", page, _PAGE, _READ | _EXEC, -1)
    finally:
        libc.munmap(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE))


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def make_the_stack_executable(_at: Targets) -> None:
    """Makes the memory of a variable executable, down to where it grows (PROT_GROWSDOWN)."""
    variable = ctypes.create_string_buffer(2 * _PAGE)
    call("mprotect", (ctypes.addressof(variable) + _PAGE) & -_PAGE, _PAGE, _READ | _WRITE | _EXEC)


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def write_code_into_its_own_program(_at: Targets) -> None:
    """Makes the code of the C library writable where it stands."""
    code = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
    call("mprotect", code & -_PAGE, _PAGE, _READ | _WRITE | _EXEC)


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def map_code_from_a_memfd(_at: Targets) -> None:
    """Writes code into a memfd and maps that, so that no memory changes what it is."""
    with closing(call("memfd_create", b"code\0", 0)) as file:
        os.write(file, b"\xc3" * 16)
        _unmap(_map(_READ | _EXEC, _PRIVATE, file))


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def map_code_twice(_at: Targets) -> None:
    """Maps one memfd writable here and executable there."""
    with closing(call("memfd_create", b"code\0", 0)) as file:
        os.ftruncate(file, _PAGE)
        writable = _map(_READ | _WRITE, _SHARED, file)
        try:
            _unmap(_map(_READ | _EXEC, _SHARED, file))
        finally:
            libc.munmap(ctypes.c_void_p(writable), ctypes.c_size_t(_PAGE))


@attempt(Harm.EXECUTABLE_MEMORY, _EXECUTABLE)
def have_all_that_is_read_be_code(_at: Targets) -> None:
    """Sets READ_IMPLIES_EXEC, then maps memory that looks harmless to a filter."""
    call("personality", 0x0400000)
    try:
        _unmap(_map(_READ | _WRITE))
    finally:
        libc.personality(0)


@attempt(Harm.EXECUTABLE_MEMORY, {errno.EPERM: Layer.CAPABILITIES})
def map_the_first_page(_at: Targets) -> None:
    """Maps address 0, for the kernel to trip over."""
    _unmap(_map(_READ | _WRITE, _PRIVATE | _ANONYMOUS | _FIXED))


@attempt(Harm.EXECUTABLE_MEMORY, TREE)
def map_a_library(_at: Targets) -> None:
    """Loads a library that is not loaded yet."""
    with closing(call("openat", -100, b"/lib/x86_64-linux-gnu/libBrokenLocale.so.1\0", 0)) as file:
        _unmap(_map(_READ | _EXEC, _PRIVATE, file))


@attempt(Harm.EXECUTABLE_MEMORY)
def hide_memory_from_the_kernel(_at: Targets) -> None:
    """Makes memory that nobody else can look at, the kernel included."""
    with closing(call("memfd_secret", 0)):
        pass


@attempt(Harm.EXECUTABLE_MEMORY)
def change_the_order_of_its_pages(_at: Targets) -> None:
    """Rearranges the pages of a mapping (remap_file_pages)."""
    page = _map(_READ | _WRITE, _SHARED | _ANONYMOUS)
    try:
        call("remap_file_pages", page, _PAGE, 0, 0, 0)
    finally:
        libc.munmap(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE))


# ── other ways into the kernel ───────────────────────────────────────────────────────────────────────────────────

# int stub(int number, int first): push rbx; mov eax, edi; mov ebx, esi; int 0x80; cdqe; pop rbx; ret
_INT_80: Final = bytes.fromhex("53 89f8 89f3 cd80 4898 5b c3")
_code: list[mmap.mmap] = []


def prepare() -> None:
    """Before lock-down: put the machine code of :data:`_INT_80` where it can be run. The page is written and run by
    nobody else, and stays executable, as code that was there before lock-down does."""
    if platform.machine() != "x86_64" or _code:
        return
    page = mmap.mmap(-1, _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, _READ | _WRITE)
    page.write(_INT_80)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), _READ | _EXEC)
    _code.append(page)


def _call_as_32_bit(number: int, first: int) -> int:
    """A call of the 32-bit ABI from a 64-bit process."""
    forget()
    if not _code:
        raise deny(ABSENT, "there is no such ABI on this machine")
    stub = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_int)(_address_of_code())
    result: int = stub(number, first)
    if result < 0:
        raise deny(-result, "the kernel said so")
    return result


def _address_of_code() -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(_code[0]))


@attempt(Harm.OTHER_ABIS)
def call_as_a_32_bit_program(_at: Targets) -> None:
    """Calls getpid by int 0x80, whose number is that of an allowed call of 64 bits."""
    _call_as_32_bit(20, 0)


@attempt(Harm.OTHER_ABIS, {errno.ENOSPC: Layer.USER_NAMESPACE})
def unshare_as_a_32_bit_program(_at: Targets) -> None:
    """Makes a user namespace by int 0x80."""
    _call_as_32_bit(310, 0x10000000)


def _call_as_x32(name: str, *arguments: int) -> int:
    architecture = native()
    if architecture is None or not architecture.x32_bit:
        raise deny(ABSENT, "there is no such ABI on this machine")
    foreign()
    number = ctypes.c_long(architecture.numbers[name] | architecture.x32_bit)
    result: int = libc.syscall(number, *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "x32")
    return result


@attempt(Harm.OTHER_ABIS)
def call_as_an_x32_program(_at: Targets) -> None:
    """Calls getpid with the bit of the x32 ABI, so that its number is in no filter."""
    _call_as_x32("getpid")


@attempt(Harm.OTHER_ABIS)
def unshare_as_an_x32_program(_at: Targets) -> None:
    """Makes a user namespace with that bit."""
    _call_as_x32("unshare", 0x10000000)


@attempt(Harm.OTHER_ABIS)
def call_a_number_that_has_no_name(_at: Targets) -> None:
    """Calls number 5000, which a filter that lists what it forbids lets pass."""
    forget()
    if libc.syscall(ctypes.c_long(5000), 0, 0, 0) < 0:
        raise deny(ctypes.get_errno(), "number 5000")


@attempt(Harm.OTHER_ABIS)
def call_with_a_high_half_set(at: Targets) -> None:
    """Makes a socket of a forbidden kind, with bits in the half of the argument that the kernel drops."""
    with closing(call("socket", 0x1_0000_0002, 3, 1)):
        pass


@attempt(Harm.OTHER_ABIS)
def change_its_segments(_at: Targets) -> None:
    """Writes a segment into its own descriptor table (modify_ldt)."""
    entry = (ctypes.c_uint32 * 4)(0, 0, 0, 0)
    call("modify_ldt", 1, entry, ctypes.sizeof(entry))


@attempt(Harm.OTHER_ABIS)
def have_its_calls_delivered_to_itself(_at: Targets) -> None:
    """Has the kernel hand its system calls to its own handler, before any filter (PR_SET_SYSCALL_USER_DISPATCH)."""
    call("prctl", 59, 0, 0, 0, 0)


@attempt(Harm.OTHER_ABIS)
def splice_memory_into_a_pipe(_at: Targets) -> None:
    """Hands pages to a pipe without copying (vmsplice; CVE-2022-0847 began so)."""
    byte = ctypes.create_string_buffer(1)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 0)
    call("vmsplice", 2, vector, 1, 0)


@attempt(Harm.OTHER_ABIS)
def use_the_old_asynchronous_io(_at: Targets) -> None:
    """Makes a context of io_setup(2)."""
    context = ctypes.c_uint64(0)
    call("io_setup", 1, context)
    call("io_destroy", context.value)
