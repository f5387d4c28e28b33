"""What a process is from its first line, ``--subprocess-kind=KIND``.

The launcher has Python run this file by its name: ``-m`` loads runpy, and without ``-S`` Python looks through the
folders of libraries for what else it shall do when it starts; together that takes 6 ms.
"""

import gc
import os
import sys

TYPE_CHECKING = False  # typing takes 10 ms to load
if TYPE_CHECKING:
    from typing import NoReturn


def begin(kind: str) -> "NoReturn":
    """Become ``kind``, or say why not and exit."""
    gc.disable()  # until everything is loaded: importing leaves next to nothing to find
    from cloister.process import later, lean

    later.load_when_asked()
    lean.load_msgspec()
    from cloister.process import entry

    code = entry.main(kind)
    sys.stderr.flush()
    os._exit(code)  # what made the namespaces has nothing to clean up


if __name__ == "__main__":
    sys.path += os.environ.pop("CLOISTER_LIBRARIES").split(os.pathsep)  # process/variables.py has the name
    begin(sys.argv[1].partition("=")[2])
