"""Memory that is shared: of what kind it is."""

from __future__ import annotations

import errno
import os

import pytest
from tests.sandbox.situations import without_noexec_memfds

from cloister.ipc import memory


def make_runnable() -> int:
    """0 when a memfd can be made a program, else the errno."""
    fd = memory.sealed(b"#!/bin/true")
    try:
        os.fchmod(fd, 0o700)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


def has_noexec_memfds() -> bool:
    try:
        os.close(os.memfd_create("probe", memory.MFD_NOEXEC_SEAL))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_noexec_memfds(), reason="MFD_NOEXEC_SEAL needs Linux 6.3")
def test_no_memfd_can_be_made_a_program() -> None:
    assert make_runnable() == errno.EPERM


def test_a_kernel_that_does_not_know_such_memfds_gives_others() -> None:
    child = os.fork()
    if child == 0:
        status = 99
        try:
            without_noexec_memfds()
            status = make_runnable()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
