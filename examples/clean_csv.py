"""Cleans a CSV file with a plugin that can do nothing else: ``python clean_csv.py IN.csv OUT.csv``

The plugin reads the foreign bytes in a process of its own; this program sees text in lists, and writes that.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from cloister import CloisterError, PluginRuntime

PLUGIN = Path(__file__).parent / "plugins" / "csv-cleaner" / "plugin.toml"
SHOWN = ("encoding", "separator", "columns", "rows", "empty_rows", "empty_columns", "formulas")


def main() -> int:
    parser = argparse.ArgumentParser(description="Clean a CSV file in a sandbox.")
    parser.add_argument("source", metavar="IN.csv", type=Path)
    parser.add_argument("target", metavar="OUT.csv", type=Path, help="a new file; nothing is overwritten")
    parser.add_argument(
        "--separator", metavar="CHARACTER", help="what is between two cells, if it is not found"
    )
    parser.add_argument("--encoding", metavar="NAME", help="such as latin-1, if it is not found")
    arguments = parser.parse_args()
    try:
        with PluginRuntime() as runtime:
            runtime.load(PLUGIN)
            data = arguments.source.read_bytes()
            options = {"separator": arguments.separator, "encoding": arguments.encoding}
            stream = runtime.call("csv-cleaner", "clean", data, **options)
            found = next(stream)
            with arguments.target.open("x", newline="", encoding="utf-8") as out:
                table = csv.writer(out)
                for batch in stream:  # the next one is made when it is asked for
                    table.writerows([str(cell) for cell in row] for row in batch)
    except (CloisterError, OSError) as error:
        print(f"clean_csv: {error}", file=sys.stderr)
        return 1
    # The plugin's own words: ascii() lets none of them drive a terminal.
    print(", ".join(f"{name.replace('_', ' ')}: {found[name]!a}" for name in SHOWN if name in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
