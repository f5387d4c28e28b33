"""``python -m cloister``: the command. ``--subprocess-kind=KIND`` is how the browser starts its own processes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

SUBPROCESS_KIND = "--subprocess-kind"
_WITH_A_BROWSER = frozenset(
    {"screenshot", "pdf", "text", "links", "decode", "fetch", "download", "demo", "portal", "doctor"}
)
"""Commands whose zygote loads while they are loaded themselves: two processors have enough to do with both."""


def main() -> NoReturn:
    """Become a child process before anything heavy is imported, or else the command."""
    if len(sys.argv) > 1 and sys.argv[1].startswith(SUBPROCESS_KIND):
        name, _, kind = sys.argv[1].partition("=")
        if name != SUBPROCESS_KIND or len(sys.argv) > 2:
            print(f"cloister: {SUBPROCESS_KIND}=KIND stands alone", file=sys.stderr)
            sys.exit(2)
        from cloister.process import entry

        code = entry.main(kind)
        sys.stderr.flush()
        os._exit(code)  # what made the namespaces has nothing to clean up
    from cloister.process import spawn

    if sys.argv[1:2] and sys.argv[1] in _WITH_A_BROWSER:
        spawn.spawn_ahead("zygote")
    from cloister import cli

    cli.run()


if __name__ == "__main__":
    main()
