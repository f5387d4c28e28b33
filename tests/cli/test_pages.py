"""The commands on real pages, through the whole chain of processes."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image
from tests.cli.descendants import descendants

from cloister.demo import server
from cloister.demo.server import DemoServer, Site

PICTURES = Path(str(server.__file__)).parent / "site" / "pictures"
CLOISTER = (sys.executable, "-m", "cloister")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with DemoServer() as demo:
        yield demo.site


def cloister(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CLOISTER, *arguments], input=stdin, capture_output=True, timeout=50, check=False)


def picture(file: Path | io.BytesIO) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGBA")


def on(site: Site, command: str, path: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return cloister(command, site.url(path), "--allow-host", site.host, *arguments)


def test_a_screenshot_has_the_size_of_the_viewport_and_full_page_that_of_the_page(
    site: Site, tmp_path: Path
) -> None:
    out = tmp_path / "page.png"
    done = on(site, "screenshot", "/daylight", "-o", str(out), "--viewport", "1000x600")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert picture(out).size == (1000, 600)
    assert list(tmp_path.iterdir()) == [out]
    whole = on(site, "screenshot", "/daylight", "--viewport", "1000x600", "--full-page")
    width, height = picture(io.BytesIO(whole.stdout)).size
    assert width == 1000
    assert height > 900


def test_a_page_becomes_a_pdf_whose_text_is_the_page(site: Site) -> None:
    document = pypdfium2.PdfDocument(on(site, "pdf", "/").stdout)
    try:
        text = document[0].get_textpage().get_text_range()
        assert "A house with many rooms" in " ".join(text.split())  # where a line breaks, the fonts decide
    finally:
        document.close()


def test_standard_input_is_a_page_too_and_declares_its_own_charset() -> None:
    page = '<meta charset="iso-8859-1"><title>t</title><p>Gr\xfc\xdfe'.encode("iso-8859-1")
    done = cloister("text", "-", stdin=page)
    assert (done.returncode, done.stdout.decode().strip()) == (0, "Grüße")


def test_a_file_gives_its_text_and_cannot_reach_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "secret.css").write_text("p::before { content: 'SECRET' }")
    page = tmp_path / "page.html"
    page.write_text("<link rel=stylesheet href=secret.css><iframe src=secret.css></iframe><p>Only me.</p>")
    done = cloister("text", str(page))
    assert (done.returncode, done.stdout) == (0, b"Only me.\n")


def test_markdown_is_the_main_content_and_html_is_the_document(site: Site) -> None:
    markdown = on(site, "text", "/", "--format", "markdown").stdout.decode()
    assert "One window" in markdown
    assert "<p" not in markdown
    assert "<h1>A house with many rooms</h1>" in on(site, "text", "/", "--format", "html").stdout.decode()


def test_links_come_as_lines_or_as_json(site: Site) -> None:
    lines = on(site, "links", "/rooms").stdout.decode().splitlines()
    assert f"{site.url('/hostile/reach')}\tThe one who reaches" in lines
    objects = json.loads(on(site, "links", "/rooms", "--json").stdout)
    assert {"url": site.url("/hostile/reach"), "text": "The one who reaches"} in objects
    assert len(objects) == len(lines)


def test_an_image_is_decoded_to_the_pixels_that_are_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = cloister("decode", str(PICTURES / "vespers.avif"), "-o", str(out))
    assert (done.returncode, done.stderr) == (0, b"")
    assert picture(out).tobytes() == picture(PICTURES / "vespers.avif").tobytes()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "file"),
        ("http://169.254.169.254/latest/", "169.254.169.254"),
        ("http://[::1]:9/", "::1"),
    ],
)
def test_an_address_that_is_refused_is_one_line_that_names_it(
    target: str, words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    done = cloister("screenshot", target, "-o", str(out))
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line.startswith(f"cloister: {target}: ")
    assert words in line.removeprefix(f"cloister: {target}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_crashes_its_process_is_one_line_that_names_the_signal(
    site: Site, tmp_path: Path
) -> None:
    done = on(site, "screenshot", "/hostile/crash", "-o", str(tmp_path / "out.png"))
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line.startswith(f"cloister: {site.url('/hostile/crash')}: ")
    assert "SIGSEGV" in line
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_never_ends_is_given_up_at_its_timeout(site: Site) -> None:
    done = on(site, "text", "/hostile/drip", "--timeout", "1")
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, line.startswith(f"cloister: {site.url('/hostile/drip')}: ")) == (1, True)


def test_ctrl_c_ends_every_process_and_leaves_no_file(site: Site, tmp_path: Path) -> None:
    arguments = (
        "screenshot",
        site.url("/hostile/drip"),
        "--allow-host",
        site.host,
        "-o",
        str(tmp_path / "o.png"),
    )
    with subprocess.Popen([*CLOISTER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        end = time.monotonic() + 30
        while len(started := descendants(running.pid)) < 8 and time.monotonic() < end:
            time.sleep(0.02)  # zygote and four branches, lookup_server, web_content, request_server
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert len(started) >= 8
    assert (running.returncode, stdout, stderr) == (130, b"", b"")
    assert list(tmp_path.iterdir()) == []
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_ctrl_c_while_the_command_is_still_loading_ends_what_it_has_begun() -> None:
    with subprocess.Popen(
        [*CLOISTER, "screenshot", "https://nowhere.invalid/"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        end = time.monotonic() + 30
        while not (started := descendants(running.pid)) and time.monotonic() < end:
            pass  # a zygote is the first thing that there is
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert started
    assert (running.returncode, stdout, stderr) == (130, b"", b"")
    # One that has just begun ends when it finds nobody there.
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_reader_that_goes_away_ends_the_command_without_a_complaint() -> None:
    page = b"".join(b'<a href="https://example.org/%d">link</a>' % number for number in range(9000))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*CLOISTER, "links", "-"],
            input=page,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=50,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_page_cannot_drive_the_terminal_that_shows_its_text() -> None:
    ours, terminal = pty.openpty()
    try:
        subprocess.run(
            [*CLOISTER, "text", "-"], input=b"<p>a&#27;]0;owned&#7;b", stdout=terminal, timeout=50, check=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        shown = os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(terminal)
    assert b"\x1b" not in shown
    assert b"\x07" not in shown
    assert "a\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}b".encode() in shown


def test_progress_is_shown_on_a_terminal_and_leaves_it_clean(site: Site) -> None:
    ours, terminal = pty.openpty()
    try:
        arguments = ("text", site.url("/rooms"), "--allow-host", site.host)
        done = subprocess.run(
            [*CLOISTER, *arguments], stdout=subprocess.PIPE, stderr=terminal, timeout=50, check=True
        )
        shown = os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(terminal)
    assert b"The rooms" in done.stdout
    assert site.url("/rooms").encode() in shown


def test_the_doctor_names_every_kind_of_process_and_the_layers_that_hold_it() -> None:
    done = cloister("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    held = {process["kind"]: process["layers"] for process in found["processes"]}
    of_pages = {"lookup_server", "request_server", "web_content", "image_decoder"}
    assert held.keys() == {"zygote", "plugin_host", *of_pages}
    assert all({"seccomp", "landlock"} <= set(layers) for layers in held.values())
    assert {layer["name"] for layer in found["layers"]} >= {
        name for layers in held.values() for name in layers
    }
