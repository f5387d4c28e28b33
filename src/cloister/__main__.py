"""``python -m cloister``: the command. ``--subprocess-kind=KIND`` is how the browser starts its own processes."""

from __future__ import annotations

import sys

SUBPROCESS_KIND = "--subprocess-kind"


def main() -> int:
    """Become a child process before anything heavy is imported, or else the command."""
    if len(sys.argv) > 1 and sys.argv[1].startswith(SUBPROCESS_KIND):
        name, _, kind = sys.argv[1].partition("=")
        if name != SUBPROCESS_KIND or len(sys.argv) > 2:
            print(f"cloister: {SUBPROCESS_KIND}=KIND stands alone", file=sys.stderr)
            return 2
        from cloister.process import entry

        return entry.main(kind)
    from cloister import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
