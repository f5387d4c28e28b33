"""``python -m cloister``: the command. ``--subprocess-kind=KIND`` is how the browser starts its own processes."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from typing import NoReturn

SUBPROCESS_KIND = "--subprocess-kind"
INTERRUPTED = 128 + 2  # by SIGINT, as shells count
_WITH_A_BROWSER = frozenset(
    {"screenshot", "pdf", "text", "links", "decode", "fetch", "download", "demo", "portal", "doctor"}
)
"""Commands whose zygote loads while they are loaded themselves: two processors have enough to do with both."""
_PAGES_ONLY = frozenset({"screenshot", "pdf", "text", "links", "decode"})
"""Those of them whose browser has nothing but pages, and images: cli/pages.py."""
_TELLS_MORE = ("--allow-d", "--c", "--d")
"""How the options begin by which a zygote loads something else: --allow-degraded, --ca-cert, --dns-server."""


def main() -> NoReturn:
    """Become a child process before anything heavy is imported, or else the command."""
    if len(sys.argv) > 1 and sys.argv[1].startswith(SUBPROCESS_KIND):
        name, _, kind = sys.argv[1].partition("=")
        if name != SUBPROCESS_KIND or len(sys.argv) > 2:
            print(f"cloister: {SUBPROCESS_KIND}=KIND stands alone", file=sys.stderr)
            sys.exit(2)
        from cloister.process.begin import begin

        begin(kind)
    gc.disable()  # until everything is loaded: importing leaves next to nothing to find
    try:
        _command()
    except KeyboardInterrupt:  # before the command was there to mind it
        from cloister.process import early

        early.abandon()
        os._exit(INTERRUPTED)


def _command() -> NoReturn:
    if len(sys.argv) > 1 and sys.argv[1] in _WITH_A_BROWSER:
        from cloister.process import early, kinds

        early.start()
        from cloister.process import later

        later.load_when_asked()
        if sys.argv[1] != "portal" and not any(each.startswith(_TELLS_MORE) for each in sys.argv):
            early.tell(kinds.OF_PAGES, kinds.PAGES_ONLY if sys.argv[1] in _PAGES_ONLY else {})
        from cloister.process import lean

        with lean.without("ssl"):  # 7 ms; who speaks TLS is request_server
            import asyncio  # noqa: F401
    from cloister import cli

    cli.run()


if __name__ == "__main__":
    main()
