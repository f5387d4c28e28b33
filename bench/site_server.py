"""The benchmark's page on loopback: about 150 KB of HTML, two style sheets, a dozen images, always the same bytes.

A process of its own, so that its work is in nobody's figure. Prints its port and the document's size in bytes, and
serves until its standard input closes.
"""

from __future__ import annotations

import io
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageFilter

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su", "ta", "ve", "li", "mo", "ar", "en")


def words(random_: random.Random, count: int) -> str:
    """Sentences of made-up words: text that wraps as text does."""
    text = ("".join(random_.choices(SYLLABLES, k=random_.randint(1, 4))) for _ in range(count))
    return " ".join(word.capitalize() + "." if number % 13 == 0 else word for number, word in enumerate(text))


def section(random_: random.Random, number: int) -> str:
    """A heading, an image, paragraphs with links, a list, a table, a block of code."""
    paragraphs = "".join(
        f'<p>{words(random_, 70)} <a href="/s/{number}">{words(random_, 3)}</a> <em>{words(random_, 12)}</em></p>'
        for _ in range(6)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{random_.randint(0, 99_999)}</td>" for _ in range(7)) + "</tr>"
        for _ in range(12)
    )
    items = "".join(f'<li class="item">{words(random_, 14)}</li>' for _ in range(8))
    image = f'<img src="/{number % 12}.{("png", "jpg", "webp")[number % 3]}" width="320" height="200" alt="">'
    code = "\n".join(f"{words(random_, 8)} = {number}" for _ in range(10))
    return (
        f'<section id="s{number}"><h2>{words(random_, 5)}</h2><div class="row"><div>{image}</div>'
        f'<div class="grow">{paragraphs}</div></div><ul>{items}</ul><table>{rows}</table><pre>{code}</pre></section>'
    )


def style(random_: random.Random, count: int) -> str:
    """A page's own rules, and ``count`` more of the sort that a framework brings along."""
    own = """body{font:16px/1.5 serif;margin:0 auto;max-width:1100px;padding:0 20px}.row{display:flex}
    .grow{flex:1;margin-left:24px}table{border-collapse:collapse;width:100%}td{border:1px solid #ccc;padding:4px 8px}
    pre{background:#f4f4f4;padding:12px;overflow:hidden}h2{border-bottom:2px solid #885533}"""
    extra = "".join(
        f".u{number} > .v{number}:first-child, #w{number} li a.x{{margin:{random_.randint(0, 40)}px;"
        f"color:#{random_.randrange(2**24):06x}}}\n"
        for number in range(count)
    )
    return own + extra


def picture(number: int, format_: str, size: tuple[int, int] = (320, 200)) -> bytes:
    """Soft noise: compresses about as well as a photograph does."""
    noise = random.Random(number).randbytes(size[0] // 8 * (size[1] // 8) * 3)
    image = Image.frombytes("RGB", (size[0] // 8, size[1] // 8), noise).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(3)).save(out, format_)
    return out.getvalue()


def site() -> dict[str, tuple[str, bytes]]:
    """Path: content type and body."""
    random_ = random.Random(1)
    body = "".join(section(random_, number) for number in range(24))
    styles = "".join(f'<link rel="stylesheet" href="/{name}.css">' for name in "ab")
    files = {
        "/": (
            "text/html; charset=utf-8",
            f"<!DOCTYPE html><title>First light</title>{styles}<body>{body}".encode(),
        ),
        "/a.css": ("text/css", style(random_, 150).encode()),
        "/b.css": ("text/css", style(random_, 80).encode()),
    }
    for number in range(12):
        suffix, format_ = (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"))[number % 3]
        files[f"/{number}.{suffix}"] = (f"image/{format_.lower()}", picture(number, format_))
    return files


def serve() -> None:
    """Serve the site until standard input closes."""
    files = site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet
        disable_nagle_algorithm = True  # as every real server does: else the end of a body waits for an ACK

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            kind, body = files.get(self.path.partition("?")[0], ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], len(files["/"][1]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
