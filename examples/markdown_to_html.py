"""Makes a web page of a text in Markdown: ``python markdown_to_html.py IN.md OUT.html`` (- for standard input)

The converter is JavaScript in a process that can do nothing else. It needs ``pip install "cloister[javascript]"``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cloister import CloisterError, PluginRuntime

PLUGIN = Path(__file__).parent / "plugins" / "markdown" / "plugin.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a web page of Markdown in a sandbox.")
    parser.add_argument("source", metavar="IN.md|-")
    parser.add_argument("target", metavar="OUT.html", type=Path)
    parser.add_argument("--title", default="", help="the page's; its first heading, if none is given")
    arguments = parser.parse_args()
    try:
        data = sys.stdin.buffer.read() if arguments.source == "-" else Path(arguments.source).read_bytes()
        with PluginRuntime() as runtime:
            runtime.load(PLUGIN)
            made = runtime.call("markdown", "page", data.decode(errors="replace"), arguments.title)
        # What comes back is the plugin's word, and goes into a file: nothing here looks into it.
        arguments.target.write_text(str(made), encoding="utf-8")
    except (CloisterError, OSError) as error:
        print(f"markdown_to_html: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
