"""The commands that need no page: one answer, or one file."""

from __future__ import annotations

import base64
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister import APIResponse, Browser, Download, DownloadProgress
from cloister.errors import CloisterError, InvalidArgument, NavigationError, printable

from . import output
from .failure import USAGE, CommandError
from .pages import SCHEME, browser

__all__ = ["download", "fetch"]

_STDIN_LIMIT = 64 * 1024 * 1024  # bytes; as much as a request may have beside its files
_FORM = "application/x-www-form-urlencoded"


def fetch(arguments: Namespace) -> int:
    """``cloister fetch``."""
    output.check(arguments.output, binary=False)
    headers = dict(_split("-H", header, ":") for header in arguments.header)
    data = _data(arguments.data)
    form = _form(arguments.form)
    if data is not None and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = _FORM
    method = arguments.request or ("GET" if data is None and form is None else "POST")
    with _opened(arguments) as opened:
        response = opened.request.fetch(
            _url(arguments.target),
            method=method,
            headers=headers,
            data=data,
            multipart=form,
            timeout=arguments.timeout * 1000,
        )
    if arguments.fail and response.status >= 400:
        raise NavigationError(
            response.url, "http_status", f"{response.status} {response.status_text}".strip()
        )
    _write(arguments.output, _shown(response, arguments))
    return 0


def download(arguments: Namespace) -> int:
    """``cloister download``."""
    parts: list[Path] = []
    with _bar(arguments) as show:

        def tell(progress: DownloadProgress) -> None:
            parts[:] = [progress.part]
            show(progress)

        try:
            with _opened(arguments) as opened:
                done = opened.download(
                    _url(arguments.target),
                    arguments.output,
                    resume=not arguments.no_resume,
                    sha256=arguments.sha256,
                    timeout=None if arguments.timeout is None else arguments.timeout * 1000,
                    progress=tell,
                )
        except KeyboardInterrupt:
            left = [part for part in parts if part.exists()]
            if left:
                print(
                    f"cloister: interrupted; what has come is in {printable(str(left[0]), 4096)}, and the same "
                    "command goes on from there",
                    file=sys.stderr,
                )
            raise
    print(_report(done) if arguments.json else printable(str(done.path), 4096))
    return 0


@contextmanager
def _opened(arguments: Namespace) -> Iterator[Browser]:
    """A browser; what it cannot make sense of is a mistake in the command line."""
    with browser(arguments) as opened:
        try:
            yield opened
        except InvalidArgument as error:
            raise CommandError(str(error), USAGE) from error


def _url(target: str) -> str:
    return target if SCHEME.match(target) else f"https://{target}"


def _split(option: str, text: str, between: str) -> tuple[str, str]:
    name, found, value = text.partition(between)
    if not found or not name.strip():
        raise CommandError(f"{option} {text}: is not NAME{between}VALUE", USAGE)
    return name.strip(), value.strip() if between == ":" else value


def _data(given: list[str]) -> bytes | Path | None:
    """As curl takes it, but for line breaks in files: those stay."""
    if len(given) == 1 and given[0].startswith("@") and given[0] != "@-":
        return _file(given[0][1:])
    pieces: list[bytes] = []
    for each in given:
        if each == "@-":
            data = sys.stdin.buffer.read(_STDIN_LIMIT + 1)
            if len(data) > _STDIN_LIMIT:
                raise CloisterError(f"standard input: more than {_STDIN_LIMIT // 2**20} MiB")
            pieces.append(data)
        elif each.startswith("@"):
            raise CommandError(f"-d {each}: a file is sent alone", USAGE)
        else:
            pieces.append(each.encode(errors="surrogateescape"))
    return b"&".join(pieces) if given else None


def _form(given: list[str]) -> dict[str, list[str | Path]] | None:
    fields: dict[str, list[str | Path]] = {}
    for each in given:
        name, value = _split("-F", each, "=")
        fields.setdefault(name, []).append(_file(value[1:]) if value.startswith("@") else value)
    return fields or None


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise CommandError(f"{path}: there is no such file", USAGE)
    return Path(path)


def _shown(response: APIResponse, arguments: Namespace) -> bytes:
    body = response.body()
    if arguments.json:
        said: dict[str, object] = {
            "url": response.url,
            "status": response.status,
            "headers": response.headers_array,
        }
        try:
            said["body"] = body.decode()
        except UnicodeDecodeError:
            said["base64"] = base64.b64encode(body).decode()
        return f"{json.dumps(said, ensure_ascii=False, indent=2)}\n".encode()
    if not arguments.include:
        return body
    first = f"{response.status} {response.status_text}".rstrip()
    head = "".join(f"{header['name']}: {header['value']}\n" for header in response.headers_array)
    return f"{first}\n{head}\n".encode() + body


def _write(where: str, data: bytes) -> None:
    if where == "-" and sys.stdout.isatty():
        try:
            data.decode()
        except UnicodeDecodeError:
            raise CommandError("standard output: not writing binary data to a terminal; use -o OUT") from None
    output.write(where, data)


def _report(done: Download) -> str:
    said = {
        "path": str(done.path),
        "url": done.url,
        "size": done.size,
        "content_type": done.content_type,
        "suggested_filename": done.suggested_filename,
        "sha256": done.sha256,
    }
    return json.dumps(said, ensure_ascii=False, indent=2)


@contextmanager
def _bar(arguments: Namespace) -> Iterator[Callable[[DownloadProgress], object]]:
    """How far it is, on standard error, when somebody is there to see it; nothing of it stays on the screen."""
    if arguments.verbose or not sys.stderr.isatty():
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # an address may hold [brackets]
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(printable(arguments.target, 60), total=None)
        yield lambda progress: shown.update(task, completed=progress.received, total=progress.total)
