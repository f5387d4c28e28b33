"""The command line: what may be asked, and what each end of it means to the shell.

It stands on argparse because starting up is part of every command: a small typer command takes 100 ms from start to
end (typer brings pydantic), the same in argparse 35 ms, Python's own start included in both.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloister import __version__
from cloister.errors import CloisterError, SandboxUnavailable, printable
from cloister.process.kinds import MODULES
from cloister.process.lean import lazy_dataclasses

from .failure import CommandError

__all__ = ["main"]

PAGE_FAILED = 1
SANDBOX_REFUSED = 3
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

MAX_SIDE = 16_384  # pixels; the page's own limit

TARGETS = """\
URL may be a bare name: example.org is a file if there is one of that name, and else https://example.org.
FILE is opened by the browser and handed over: the page cannot reach its neighbours. - reads standard input.
"""
CODES = "exit codes: 0 done, 1 the page failed, 2 usage, 3 the sandbox refused, 130 interrupted"

PLUGIN_CODES = (
    "exit codes: 0 done, 1 the plugin or one of its tests failed, 2 usage, 3 the sandbox refused, 4 it went beyond a "
    "limit, 5 its process crashed, 130 interrupted"
)

Run = Callable[[argparse.Namespace], int]
Fill = Callable[[argparse.ArgumentParser], None]


def viewport(text: str) -> dict[str, int]:
    """``1200x900`` in CSS pixels."""
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as in 1200x900")
    if not (1 <= int(width) <= MAX_SIDE and 1 <= int(height) <= MAX_SIDE):
        raise argparse.ArgumentTypeError(f"{text!r}: each side is between 1 and {MAX_SIDE}")
    return {"width": int(width), "height": int(height)}


def seconds(text: str) -> float:
    """A time over nothing and up to a day."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.001 <= value <= 24 * 3600:  # not NaN either
        raise argparse.ArgumentTypeError(f"{text!r}: between 0.001 and 86400 seconds")
    return value


def proxy(text: str) -> dict[str, str]:
    """``scheme://user:password@host:port``, its escapes decoded; a colon or an @ in a password is one of them."""
    from urllib.parse import unquote

    scheme, found, rest = text.rpartition("://")
    credentials, at, server = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    made = {"server": f"{scheme}{found}{server}"}
    return made | {"username": unquote(username), "password": unquote(password)} if at else made


def _page_options(shared: argparse.ArgumentParser, *, binary: bool) -> None:
    shared.add_argument("target", metavar="URL|FILE|-", help="what to open")
    shared.add_argument(
        "-o", "--output", metavar="OUT", default="-", help="write to OUT instead of standard output"
    )
    shared.add_argument("--viewport", metavar="WxH", type=viewport, default={"width": 1280, "height": 720},
                        help="the page's size in CSS pixels (1280x720)")  # fmt: skip
    shared.add_argument("--cookies", metavar="FILE", type=Path,
                        help="send these: a storage state as Playwright's, or a cookies.txt")  # fmt: skip
    shared.add_argument("--save-cookies", metavar="FILE", type=Path,
                        help="write what there is afterwards, as a storage state")  # fmt: skip
    _network(shared, 30.0)
    shared.set_defaults(binary=binary)


def _network(shared: argparse.ArgumentParser, timeout: float | None) -> None:
    """What there is to say of the network, and of what looks on. ``timeout`` is the usual one, in seconds."""
    shared.add_argument("--allow-host", metavar="HOST[:PORT]", action="append", default=[],
                        help="a host that is not public, such as localhost:8000; may be repeated")  # fmt: skip
    shared.add_argument("--proxy", metavar="URL", type=proxy,
                        help="connect through http://[USER:PASSWORD@]HOST:PORT or socks5://…")  # fmt: skip
    shared.add_argument("--dns-server", metavar="SERVER", action="append", default=[],
                        help="ask it instead of the system's: 192.0.2.53, tls://1.1.1.1, "
                        "https://1.1.1.1/dns-query; may be repeated")  # fmt: skip
    shared.add_argument(
        "--ca-cert", metavar="FILE", type=Path, help="certificates (PEM) to trust besides the system's"
    )
    shared.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=timeout,
        help=f"for everything together ({f'{timeout:g}' if timeout else 'as long as something comes'})",
    )  # fmt: skip
    _degraded(shared)
    _looking_on(shared)


def _degraded(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-degraded", action="store_true",
                        help="run although this machine lacks a layer of the sandbox")  # fmt: skip


def _verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="count", default=0,
                        help="say on standard error what goes on; twice for all of it")  # fmt: skip


def _looking_on(parser: argparse.ArgumentParser) -> None:
    _verbose(parser)
    parser.add_argument("--trace-ipc", metavar="FILE", type=Path,
                        help="append a line of JSON to FILE for each message between the processes")  # fmt: skip
    parser.add_argument("--trace-payload", action="store_true",
                        help="and all that the messages say: addresses, documents, text")  # fmt: skip


def _lazily(module: str, name: str) -> Run:
    """The function ``name`` of ``cloister.cli.<module>``, imported when it is called."""

    def run(arguments: argparse.Namespace) -> int:
        from importlib import import_module

        with _logged(getattr(arguments, "verbose", None)):
            with lazy_dataclasses():
                function: Run = getattr(import_module(f"cloister.cli.{module}"), name)
            # __main__ turned it off: importing leaves next to nothing to find, and to look for it takes 10 ms.
            gc.freeze()
            gc.enable()
            return function(arguments)

    return run


@contextmanager
def _logged(verbosity: int | None) -> Iterator[None]:
    """Have on standard error what Cloister logs: with 1 what goes on, with 2 or more all of it. With 0 no warnings
    either: what becomes of its page a command says itself. None is for commands that only have their log to say it."""
    import logging

    levels = {None: logging.WARNING, 0: logging.ERROR, 1: logging.INFO}
    handler = logging.StreamHandler()
    when = "%(relativeCreated)6.0f ms " if verbosity else ""
    handler.setFormatter(logging.Formatter(f"{when}%(name)s: %(message)s"))
    log, of_sandbox = logging.getLogger("cloister"), logging.getLogger("cloister.sandbox")
    before = log.level, of_sandbox.level
    log.addHandler(handler)
    log.setLevel(levels.get(verbosity, logging.DEBUG))
    # Nothing is logged there unless CLOISTER_SANDBOX_LOG=1 asked for it.
    of_sandbox.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        of_sandbox.setLevel(before[1])


def _width() -> int:
    """Characters of a line, as argparse finds it: by shutil, which loads three libraries for archives."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 0
    return (columns or 80) - 2


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Every command with its options; where one is named, the options of that one only: all of them take 6 ms."""
    plain = functools.partial(argparse.HelpFormatter, width=_width())
    as_written = functools.partial(argparse.RawDescriptionHelpFormatter, width=_width())
    parser = argparse.ArgumentParser(
        prog="cloister",
        formatter_class=plain,
        description="Open what you don't trust: every page, response and image in a sandboxed process of its own.",
        epilog=CODES,
    )
    parser.add_argument("--version", action="version", version=f"cloister {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, module: str, text: str, fill: Fill, epilog: str = CODES) -> None:
        added = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog,
            formatter_class=as_written,
        )  # fmt: skip
        added.set_defaults(run=_lazily(module, name))
        if only in (None, name):
            fill(added)

    def group(name: str, text: str, fill: Fill, epilog: str = CODES) -> None:
        added = commands.add_parser(name, help=text, epilog=epilog, formatter_class=plain)
        if only in (None, name):
            fill(added)

    command("screenshot", "pages", "a picture of a page, as PNG", _add_screenshot, TARGETS + CODES)
    command("pdf", "pages", "a page laid out for print, as PDF", _add_pdf, TARGETS + CODES)
    command("text", "pages", "what a page says", _add_text, TARGETS + CODES)
    command("links", "pages", "where a page leads: one address and its text a line", _add_links,
            TARGETS + CODES)  # fmt: skip
    command("decode", "pages", "one image of any format, as PNG", _add_decode)
    command("fetch", "fetch", "what a server answers, without a page", _add_fetch)
    command("download", "fetch", "what a server sends, saved in a file", _add_download)
    command("demo", "shows", "good and hostile pages side by side, served on this machine", _add_demo)
    group("plugin", "make, check, run and test a plugin", _add_plugin, PLUGIN_CODES)
    command("portal", "portal", "sandboxed processes for your other programs, on sockets", _add_portal)
    command("doctor", "shows", "what this machine's kernel offers, and what each process gets", _add_doctor)
    group("crashes", "what is known of processes that crashed", _add_crashes)
    command("top", "top", "the processes of all your browsers and plugins, and what each uses", _add_top)
    return parser


def _add_screenshot(screenshot: argparse.ArgumentParser) -> None:
    _page_options(screenshot, binary=True)
    screenshot.add_argument(
        "--full-page", action="store_true", help="the whole page, not only what the viewport shows"
    )


def _add_pdf(pdf: argparse.ArgumentParser) -> None:
    _page_options(pdf, binary=True)


def _add_text(text: argparse.ArgumentParser) -> None:
    _page_options(text, binary=False)
    text.add_argument("--format", choices=("text", "markdown", "html"), default="text",
                      help="all visible text (text), the main content as Markdown, or the document")  # fmt: skip


def _add_links(links: argparse.ArgumentParser) -> None:
    _page_options(links, binary=False)
    links.add_argument("--json", action="store_true", help="a list of objects with url and text")


def _add_decode(decode: argparse.ArgumentParser) -> None:
    decode.add_argument("target", metavar="IMAGE", help="an image file")
    decode.add_argument(
        "-o", "--output", metavar="OUT", default="-", help="write to OUT instead of standard output"
    )
    decode.set_defaults(binary=True, allow_host=[], proxy=None, dns_server=[], ca_cert=None, viewport=None)
    _degraded(decode)
    _looking_on(decode)


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("cloister-demo"),
                      help="where the pictures go (./cloister-demo)")  # fmt: skip
    demo.add_argument("--json", action="store_true", help="the report for scripts")
    _degraded(demo)
    _looking_on(demo)


def _add_portal(portal: argparse.ArgumentParser) -> None:
    portal.add_argument("--folder", metavar="DIR", type=Path,
                        help="where the sockets are ($XDG_RUNTIME_DIR/cloister/portal)")  # fmt: skip
    portal.add_argument("--max-processes", metavar="N", type=int, default=16,
                        help="how many of each kind live at once (16)")  # fmt: skip
    portal.add_argument("--json", action="store_true", help="where the sockets are, for scripts")
    _degraded(portal)


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    instead = doctor.add_mutually_exclusive_group()
    instead.add_argument(
        "--policy",
        metavar="KIND",
        choices=list(MODULES),
        help=f"what a kind of process may do, in words: {', '.join(MODULES)}",
    )
    instead.add_argument(
        "--attack",
        action="store_true",
        help="have each kind of process try what it must not do; 3 if anything gets through",
    )
    doctor.add_argument("--json", action="store_true", help="the report for scripts")
    _verbose(doctor)


def _add_top(top: argparse.ArgumentParser) -> None:
    top.add_argument("--once", action="store_true", help="one table, and no keys")
    top.add_argument("--json", action="store_true", help="once, as a list for scripts")
    top.add_argument("--interval", metavar="SECONDS", type=seconds, default=1.0, help="between two looks (1)")


def _add_fetch(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("target", metavar="URL", help="what to ask for")
    fetch.add_argument("-X", "--request", metavar="METHOD", help="GET, or POST where something is sent")
    fetch.add_argument("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[],
                       help="one more header, or in place of ours; may be repeated")  # fmt: skip
    sent = fetch.add_mutually_exclusive_group()
    sent.add_argument("-d", "--data", metavar="DATA|@FILE", action="append", default=[],
                      help="send it, as a form does; @- is standard input; several are joined by &")  # fmt: skip
    sent.add_argument("-F", "--form", metavar="NAME=VALUE|NAME=@FILE", action="append", default=[],
                      help="send a form with files; may be repeated")  # fmt: skip
    fetch.add_argument("-i", "--include", action="store_true", help="the status and the headers, too")
    fetch.add_argument("-f", "--fail", action="store_true", help="a status of 400 and above is a failure")
    fetch.add_argument("-o", "--output", metavar="OUT", default="-",
                       help="write to OUT instead of standard output")  # fmt: skip
    fetch.add_argument("--json", action="store_true", help="an object with url, status, headers and body")
    _network(fetch, 30.0)
    fetch.set_defaults(viewport=None)


def _add_download(download: argparse.ArgumentParser) -> None:
    download.add_argument("target", metavar="URL", help="what to save")
    download.add_argument("-o", "--output", metavar="OUT|FOLDER", default=".",
                          help="the file, or where one is made that is called what the server says (.)")  # fmt: skip
    download.add_argument("--no-resume", action="store_true",
                          help="begin anew, and leave nothing of what breaks off")  # fmt: skip
    download.add_argument("--sha256", metavar="HEX", help="take nothing else")
    download.add_argument("--json", action="store_true", help="an object with path, url, size and so on")
    _network(download, None)
    download.set_defaults(viewport=None)


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        described = f"{text[0].upper()}{text[1:]}."
        added = commands.add_parser(name, help=text, description=described, epilog=PLUGIN_CODES)
        added.set_defaults(run=_lazily(f"plugin_{name}", name))
        return added

    new = command("new", "a folder with a plugin to begin with; nothing is overwritten")
    new.add_argument("name", metavar="NAME", help="small letters, digits and hyphens")
    new.add_argument("--language", choices=("python", "javascript", "wasm", "executable"), default="python",
                     help="what it is written in (python)")  # fmt: skip
    new.add_argument("--path", metavar="FOLDER", type=Path, help="where it goes (./NAME)")

    check = command("check", "whether a plugin is in order, and what it asks for")
    run = command("run", "call a function of a plugin in its sandbox, and print what it returns")
    test = command("test", "run a plugin's own tests, each in a fresh process of its sandbox")
    for each in (check, run, test):
        each.add_argument("path", metavar="PATH", help="a plugin's folder, or its manifest")
        each.add_argument("--grant", metavar="CAPABILITY[=VALUE]", action="append", default=[],
                          help="grant it what it asks for, as in fs:read=/srv/data; may be repeated")  # fmt: skip
        each.add_argument("--limit", metavar="NAME=VALUE", action="append", default=[],
                          help="what it may use, as in memory=50MiB; may be repeated")  # fmt: skip
        each.add_argument("--profile", metavar="NAME",
                          help="grants and limits: terminal, observability or orchestration")  # fmt: skip
        each.add_argument("--module", metavar="NAME", action="append", default=[],
                          help="a module that is installed here and that it may import; may be repeated")  # fmt: skip
        each.add_argument("--with", metavar="PATH", dest="needed", action="append", default=[],
                          help="load a plugin that it needs before it; may be repeated")  # fmt: skip
        _degraded(each)
        _verbose(each)
    check.add_argument("--json", action="store_true", help="the report for scripts")
    run.add_argument("function", metavar="FUNCTION", help="what to call")
    run.add_argument("arguments", metavar="ARG", nargs="*",
                     help="JSON, else text; @FILE is the bytes of a file, @- of standard input")  # fmt: skip
    run.add_argument(
        "--args", metavar="FILE|-", help="a list of arguments, or an object of named ones, in JSON"
    )
    run.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help="for the call, or for each value of a stream"
    )
    run.add_argument(
        "--json", action="store_true", help="the result as JSON; a stream as a line for each value"
    )
    test.add_argument("-k", dest="only", metavar="TEXT", help="only tests with TEXT in their name")


def _add_crashes(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listed = commands.add_parser("list", help="a line for each report, the newest first")
    listed.set_defaults(run=_lazily("crashes", "list_reports"))
    shown = commands.add_parser("show", help="everything that one report says")
    shown.add_argument("id", metavar="ID|latest", help="one of the list, or the newest")
    shown.set_defaults(run=_lazily("crashes", "show"))
    for command in (listed, shown):
        command.add_argument("--json", action="store_true", help="the report for scripts")
    cleared = commands.add_parser("clear", help="delete reports")
    cleared.add_argument("ids", metavar="ID", nargs="*", help="which ones; all if none is named")
    cleared.set_defaults(run=_lazily("crashes", "clear"))


def _complain(arguments: argparse.Namespace, error: Exception) -> None:
    """One line: what was asked, and what refused it."""
    line = printable(str(error), 1000)
    target = getattr(arguments, "target", None)
    asked = None if target is None else printable("standard input" if target == "-" else target, 200)
    if asked is not None and asked not in line:
        line = f"{asked}: {line}"
    print(f"cloister: {line}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is its exit code. Usage errors and ``--help`` raise SystemExit, as argparse does."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser(argv[0] if argv else None).parse_args(argv)
    try:
        run: Run = arguments.run
        code = run(arguments)
        sys.stdout.flush()
        return code
    except SandboxUnavailable as error:
        _complain(arguments, error)
        return SANDBOX_REFUSED
    except CommandError as error:
        print(f"cloister: {error}", file=sys.stderr)
        return error.code
    except CloisterError as error:
        _complain(arguments, error)
        return PAGE_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (as in `cloister links … | head`); Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
