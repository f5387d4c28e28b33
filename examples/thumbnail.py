"""Makes thumbnails of images that nobody vouches for: ``python thumbnail.py -o FOLDER IMAGE...``

Each image is opened in a process of its own, which ends with it. A bomb of pixels reaches its limit of memory, a file
that breaks the decoder breaks that process, and the other images are done all the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cloister import CloisterError, PluginPool, PluginRuntime

PLUGIN = Path(__file__).parent / "plugins" / "thumbnailer" / "plugin.toml"
# Imported before the process locks itself down, as code cannot be loaded afterwards: Pillow's formats too.
MODULES = ["PIL.Image", "PIL.ImageOps"] + [
    f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP", "Mpo")
]
ENDINGS = {"png": ".png", "jpeg": ".jpg"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Make thumbnails in a sandbox.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True)
    parser.add_argument(
        "--side", metavar="PIXELS", type=int, default=256, help="at most so wide and high (256)"
    )
    arguments = parser.parse_args()
    try:
        arguments.output.mkdir(exist_ok=True)
        failed = thumbnails(arguments)
    except (CloisterError, OSError) as error:
        failed = [str(error)]
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0


def thumbnails(arguments: argparse.Namespace) -> list[str]:
    """Make them; a line for each image that there is none of."""
    failed = []
    with PluginRuntime(modules=MODULES) as runtime:
        runtime.load(PLUGIN)
        with PluginPool("thumbnailer", size=2, calls="fresh", runtime=runtime) as pool:
            running = []
            for image in arguments.images:
                try:  # submit() waits while a hundred calls wait
                    running.append((image, pool.submit("thumbnail", image.read_bytes(), arguments.side)))
                except OSError as error:
                    failed.append(f"{image}: {error.strerror}")
            for image, future in running:
                try:
                    ending, data = judged(future.result())
                    target = arguments.output / f"{image.stem}{ending}"
                    with target.open("xb") as out:  # nothing is overwritten
                        out.write(data)
                    print(target)
                except (CloisterError, OSError, ValueError) as error:
                    failed.append(f"{image}: {error}")
    return failed


def judged(found: object) -> tuple[str, bytes]:
    """The ending of a file's name, and its bytes: what a plugin gives back is its word, and may be anything."""
    match found:
        case {"type": "jpeg" | "png" as kind, "bytes": bytes(data)}:
            return ENDINGS[kind], data
    raise ValueError("the plugin gave back no picture")


if __name__ == "__main__":
    sys.exit(main())
