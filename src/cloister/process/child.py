"""What runs around a child's ``main``: its exit code, and the words it leaves when it cannot go on."""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from typing import NoReturn, Protocol

from ..errors import ChannelClosed, SandboxUnavailable
from ..interfaces.control import CONTROL, EXIT_NO_MEMORY, Refused
from ..ipc.codec import Packet, codec
from ..ipc.start import Start

__all__ = ["leave", "run", "tell_of_crashes"]

EXIT_SOFTWARE = 70  # sysexits(3): a bug in the child
EXIT_REFUSED = 3


def tell_of_crashes() -> None:
    """From now on, in this process and in what it forks, a signal that ends it first writes Python's stack to
    standard error. Before lock-down: it sets up a stack of its own."""
    faulthandler.enable(file=2, all_threads=False)


def leave(code: int) -> NoReturn:
    """Exit without the interpreter's clean-up: it takes time, and under lock-down there is nothing to clean."""
    sys.stderr.flush()
    os._exit(code)


class Runnable(Protocol):
    """A child's module, or what stands for one."""

    def main(self, start: Start, /) -> None: ...


def run(module: Runnable, start: Start) -> int:
    """Call ``module.main(start)``; the process's exit code."""
    try:
        module.main(start)
    except SandboxUnavailable as error:
        refused = Refused(tuple((layer, why[:500]) for layer, why in error.missing.items()))
        try:
            start.control.send(codec(CONTROL, "server").encode(Packet.EVENT, 0, refused))
        except (ChannelClosed, BlockingIOError):
            print(error, file=sys.stderr)
        return EXIT_REFUSED
    except MemoryError:
        traceback.print_exc()
        return EXIT_NO_MEMORY
    except BaseException:
        traceback.print_exc()
        return EXIT_SOFTWARE
    return 0
