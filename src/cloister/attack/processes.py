"""Other processes: making them, running programs, signalling, tracing, and typing into their terminals."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import threading
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

from .attempt import ZYGOTES, Attempt, Harm, add, attempt
from .calls import ABSENT, call, closing, deny, forget, parent
from .files import AT_FDCWD, TREE

_SIGCHLD: Final = 17
_SIGCONT: Final = 18
_CLONE_VM: Final = 0x00000100
_CLONE_VFORK: Final = 0x00004000

_FORKING: Final = {errno.EAGAIN: Layer.LIMITS}
_ELSEWHERE: Final = {errno.ESRCH: Layer.PID_NAMESPACE, errno.EPERM: Layer.LANDLOCK_SCOPE}
_TRACED: Final = {
    errno.ESRCH: Layer.PID_NAMESPACE,
    errno.EPERM: Layer.LANDLOCK,
    errno.EACCES: Layer.LANDLOCK,
}
"""Landlock lets a process trace what is in its own domain or below, and so read it and take its descriptors."""


def _end_of(child: int) -> None:
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@attempt(Harm.PROCESSES, _FORKING, ZYGOTES)
def fork(_at: Targets) -> None:
    """Makes a process, and so any number of them."""
    _end_of(call("clone", _SIGCHLD, 0, 0, 0, 0))


@attempt(Harm.PROCESSES, _FORKING)
def fork_by_the_new_call(_at: Targets) -> None:
    """The same by clone3(2), whose flags are in memory, where a filter cannot see them."""
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, _SIGCHLD)
    _end_of(call("clone3", arguments, ctypes.sizeof(arguments)))


@attempt(Harm.PROCESSES, _FORKING)
def start_a_thread(_at: Targets) -> None:
    """Makes a thread, by the C library."""
    forget()
    thread = threading.Thread(target=lambda: None)
    try:
        thread.start()
    except RuntimeError as error:
        raise deny(errno.EAGAIN, str(error)) from None
    thread.join(1)


@attempt(Harm.PROCESSES, TREE)
def run_a_program(_at: Targets) -> None:
    """Becomes /bin/true."""
    call("execve", b"/bin/true\0", _strings(b"true"), _strings())


@attempt(Harm.PROCESSES, TREE)
def run_a_shell(_at: Targets) -> None:
    """Becomes a shell, named from a folder."""
    call("execveat", AT_FDCWD, b"/bin/sh\0", _strings(b"sh", b"-c", b"exit 0"), _strings(), 0)


@attempt(Harm.PROCESSES, {errno.EACCES: Layer.PID_NAMESPACE})  # where its vm.memfd_noexec says so
def run_a_program_from_memory(_at: Targets) -> None:
    """Writes a program into a memfd and becomes that, so that no path is needed."""
    program = _program()
    with closing(call("memfd_create", b"program\0", 0)) as file:
        os.write(file, program)
        call("execveat", file, b"\0", _strings(b"program"), _strings(), 0x1000)  # AT_EMPTY_PATH


def _strings(*words: bytes) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


_EXIT: Final = {
    "x86_64": (62, bytes.fromhex("31ff b83c000000 0f05")),  # xor edi, edi; mov eax, 60; syscall
    "aarch64": (183, bytes.fromhex("000080d2 a80b80d2 010000d4")),  # mov x0, 0; mov x8, 93; svc 0
}


def _program() -> bytes:
    """An ELF file that exits (elf(5)): a header, one segment, three instructions."""
    if platform.machine() not in _EXIT:
        raise deny(ABSENT, "no program for this machine")
    machine, code = _EXIT[platform.machine()]
    base, head = 0x400000, 64 + 56
    size = head + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        machine,
        1,
        base + head,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code


@attempt(Harm.SIGNALS, _ELSEWHERE)
def signal_a_process_outside(at: Targets) -> None:
    """Signals another process of its user."""
    call("kill", at.victim, _SIGCONT)


@attempt(Harm.SIGNALS, _ELSEWHERE)
def signal_a_thread_outside(at: Targets) -> None:
    """The same by tgkill(2)."""
    call("tgkill", at.victim, at.victim, _SIGCONT)


@attempt(Harm.SIGNALS, _ELSEWHERE)
def signal_a_thread_by_the_old_call(at: Targets) -> None:
    """The same by tkill(2)."""
    call("tkill", at.victim, _SIGCONT)


@attempt(Harm.SIGNALS, _ELSEWHERE)
def queue_a_signal(at: Targets) -> None:
    """The same with a forged sender."""
    information = ctypes.create_string_buffer(struct.pack("iii", _SIGCONT, 0, -1), 128)  # SI_QUEUE
    call("rt_sigqueueinfo", at.victim, _SIGCONT, information)


@attempt(Harm.SIGNALS, _ELSEWHERE)
def signal_a_process_by_a_descriptor(at: Targets) -> None:
    """The same by a pidfd."""
    with closing(call("pidfd_open", at.victim, 0)) as process:
        call("pidfd_send_signal", process, _SIGCONT, None, 0)


@attempt(Harm.SIGNALS, _ELSEWHERE, ZYGOTES)
def signal_who_forked_it(_at: Targets) -> None:
    """Signals its parent: signal 0, where another would end every page."""
    call("kill", parent(), 0)


@attempt(Harm.SIGNALS, _ELSEWHERE)
def signal_the_first_process(_at: Targets) -> None:
    """Signals process 1, with which everything ends: signal 0."""
    call("kill", 1, 0)


@attempt(Harm.SIGNALS, _ELSEWHERE, ZYGOTES)
def signal_its_neighbours(_at: Targets) -> None:
    """Signals whoever has a small number, the processes of other pages among them: signal 0."""
    there = False
    for neighbour in set(range(2, 256)) - {os.getpid()}:
        try:
            call("kill", neighbour, 0)
        except ProcessLookupError:
            continue
        except PermissionError:
            there = True
        else:
            return
    number = errno.EPERM if there else errno.ESRCH
    raise OSError(number, os.strerror(number), "kill")


@attempt(Harm.PTRACE, _TRACED)
def trace_another_process(at: Targets) -> None:
    """Attaches to a process of its user."""
    call("ptrace", 0x4206, at.victim, 0, 0)  # PTRACE_SEIZE


@attempt(Harm.PTRACE, _TRACED)
def trace_who_forked_it(_at: Targets) -> None:
    """Attaches to its parent, which is still to fork others."""
    call("ptrace", 0x4206, parent(), 0, 0)


def _one_byte() -> tuple[ctypes.Array[ctypes.c_uint64], ctypes.Array[ctypes.c_char]]:
    byte = ctypes.create_string_buffer(1)
    return (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 1), byte


@attempt(Harm.PTRACE, _TRACED)
def read_the_memory_of_another(at: Targets) -> None:
    """Copies from the memory of a process of its user; of an address where nothing is."""
    here, _byte = _one_byte()
    there = (ctypes.c_uint64 * 2)(0, 1)
    call("process_vm_readv", at.victim, here, 1, there, 1, 0)


@attempt(Harm.PTRACE, _TRACED)
def write_the_memory_of_another(at: Targets) -> None:
    """Copies into the memory of a process of its user; to an address where nothing is."""
    here, _byte = _one_byte()
    there = (ctypes.c_uint64 * 2)(0, 1)
    call("process_vm_writev", at.victim, here, 1, there, 1, 0)


@attempt(Harm.PTRACE, _TRACED)
def read_the_memory_of_who_forked_it(_at: Targets) -> None:
    """Copies from the memory of its parent."""
    here, byte = _one_byte()
    there = (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 1)
    call("process_vm_readv", parent(), here, 1, there, 1, 0)


@attempt(Harm.PTRACE, _TRACED)
def take_a_descriptor_of_another(at: Targets) -> None:
    """Copies a descriptor of a process of its user."""
    with closing(call("pidfd_open", at.victim, 0)) as process, closing(call("pidfd_getfd", process, 0, 0)):
        pass


@attempt(Harm.PTRACE, _TRACED)
def take_a_descriptor_of_who_forked_it(_at: Targets) -> None:
    """Copies a descriptor of its parent."""
    with closing(call("pidfd_open", parent(), 0)) as process, closing(call("pidfd_getfd", process, 0, 0)):
        pass


@attempt(Harm.PTRACE, _TRACED)
def advise_on_the_memory_of_another(at: Targets) -> None:
    """Has the kernel page out the memory of a process of its user."""
    here, _byte = _one_byte()
    with closing(call("pidfd_open", at.victim, 0)) as process:
        call("process_madvise", process, here, 1, 20, 0)  # MADV_COLD


@attempt(Harm.PTRACE, _TRACED)
def compare_with_another_process(at: Targets) -> None:
    """Learns addresses in the kernel by comparing what two processes have."""
    call("kcmp", os.getpid(), at.victim, 1, 0, 0)  # KCMP_VM


@attempt(Harm.PTRACE, _TRACED)
def find_the_locks_of_another(at: Targets) -> None:
    """Reads where the robust futexes of a process of its user are."""
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    call("get_robust_list", at.victim, head, length)


@attempt(Harm.PROCESSES, {errno.ESRCH: Layer.PID_NAMESPACE})
def set_the_limits_of_another(at: Targets) -> None:
    """Reads, and could set, the limits of a process of its user."""
    call("prlimit64", at.victim, 7, None, (ctypes.c_uint64 * 2)())


@attempt(Harm.PROCESSES, {errno.ESRCH: Layer.PID_NAMESPACE})
def slow_another_process(at: Targets) -> None:
    """Takes another process off all processors but one."""
    call("sched_setaffinity", at.victim, 8, (ctypes.c_uint64 * 1)(2**64 - 1))


@attempt(Harm.PROCESSES, {errno.ESRCH: Layer.PID_NAMESPACE})
def move_the_memory_of_another(at: Targets) -> None:
    """Asks where the pages of a process of its user are, to move them."""
    call("move_pages", at.victim, 0, None, None, None, 0)


@attempt(Harm.PROCESSES, {errno.ESRCH: Layer.PID_NAMESPACE})
def put_another_into_a_group(at: Targets) -> None:
    """Puts another process into a process group of its own."""
    call("setpgid", at.victim, at.victim)


_TERMINAL: Final = {errno.ENOTTY: Layer.DESCRIPTORS, errno.EINVAL: Layer.DESCRIPTORS}
"""None of its descriptors is a terminal."""


def _typing(name: str, request: int, sentence: str) -> None:
    def run(_at: Targets) -> None:
        for descriptor in (0, 1):
            with contextlib.suppress(OSError):
                call("ioctl", descriptor, request, ctypes.create_string_buffer(b"\x0a", 64))
                return
        call("ioctl", 2, request, ctypes.create_string_buffer(b"\x0a", 64))

    add(Attempt(name, Harm.TERMINAL, sentence, run, _TERMINAL))


_typing(
    "type into the terminal", 0x5412, "Puts a key press into the terminal's input (TIOCSTI, CVE-2017-5226)."
)
_typing("paste into the console", 0x541C, "Pastes the selection of the console (TIOCLINUX, CVE-2023-1523).")
_typing("take the terminal", 0x540E, "Makes a terminal its controlling one (TIOCSCTTY).")
_typing("change the terminal", 0x5402, "Changes how the terminal works (TCSETS).")
