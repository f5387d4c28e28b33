"""The fonts of the package pymupdf-fonts, for a machine that has none. Apart from :mod:`.fonts`, so that a machine
that has some loads nothing of what this needs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import pymupdf_fonts

__all__ = ["install", "places"]

_PACKAGE = "pymupdf-fonts"
_PACKAGED = {  # its names: regular, bold, italic, bold italic of each family; then symbols
    "NotoSans-Regular": "notos",
    "NotoSans-Bold": "notosbo",
    "NotoSans-Italic": "notosit",
    "NotoSans-BoldItalic": "notosbi",
    "UbuntuMono-Regular": "ubuntm",
    "UbuntuMono-Bold": "ubuntmbo",
    "UbuntuMono-Italic": "ubuntmit",
    "UbuntuMono-BoldItalic": "ubuntmbi",
    "NotoSansMath-Regular": "math",
    "NotoSansSymbols-Regular": "symbol1",
    "NotoSansSymbols2-Regular": "symbol2",
}
_SUMS = "SHA256SUMS"


def install() -> Path:
    """Write the packaged fonts into the user's cache, once, or else beside the temporary files; where they are.

    What is there already is compared with its checksums. Only the user may write the folder, which appears whole;
    everybody may read it, as root's pages are opened by processes of nobody.

    Raises:
        OSError: neither place can be written.
    """
    preferred, other = places()
    try:
        return _installed(preferred)
    except OSError:  # no home, or one that is read-only
        return _installed(other)


def _installed(target: Path) -> Path:
    if _is_whole(target):
        return target
    umask = os.umask(0o022)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(umask)
    building = Path(tempfile.mkdtemp(prefix="cloister-fonts-", dir=target.parent))  # mode 0700
    try:
        _write(building)
        building.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    except OSError:
        if not _is_whole(target):  # somebody else was as quick
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def places() -> tuple[Path, Path]:
    """Where the packaged fonts may be. Names in /tmp are safe as others cannot rename what is not theirs there."""
    name = f"fonts-{importlib.metadata.version(_PACKAGE)}"
    home = os.path.expanduser("~/.cache")  # noqa: PTH111
    if os.getuid() == 0:  # whose home is for nobody to pass
        home = "/var/cache"
    cache = os.environ.get("XDG_CACHE_HOME") or home
    return Path(cache) / "cloister" / name, Path("/tmp") / f"cloister-{os.getuid()}-{name}"  # noqa: S108


def _write(folder: Path) -> None:
    sums = []
    for name, key in _PACKAGED.items():
        data = pymupdf_fonts.myfont(key)
        file = folder / f"{name}.ttf"
        file.write_bytes(data)
        file.chmod(0o644)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}.ttf")
    (folder / _SUMS).write_text("\n".join(sums) + "\n")


def _is_whole(folder: Path) -> bool:
    """Whether nobody else may write it, and it holds what its checksums say."""
    try:
        status = folder.stat(follow_symlinks=False)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return False
        lines = (folder / _SUMS).read_text().splitlines()
        return len(lines) == len(_PACKAGED) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for digest, _, name in (line.partition("  ") for line in lines)
        )
    except (OSError, ValueError):
        return False
