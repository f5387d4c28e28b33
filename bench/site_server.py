"""The benchmark's pages on loopback, always the same bytes: a page of documentation, and a gallery.

The page's size and make-up are modelled on a real one, the Python 3.11 documentation's library/asyncio-task.html
(Debian's package python3-doc); its words are its own. There is no JavaScript.

    |                        | the model       | this page                     |
    |------------------------|-----------------|-------------------------------|
    | HTML                   | 147 KB          | 149 KB                        |
    | elements               | 3,463           | 3,369                         |
    | words that are shown   | 4,916           | 5,314                         |
    | height                 | 20,400 px       | 21,260 px                     |
    | style sheets           | 35 KB, 5 files  | 24 KB, 2 files                |
    | rules in them          | about 390       | 266                           |
    | images of 320 × 200    | none            | 8: PNG, JPEG and WebP in turn |

Measured in Chromium at a width of 1280 CSS pixels; Cloister's page is 3 px higher. ``/gallery`` is the same page with
three images in each of its eight figures, and no higher.

A process of its own, so that its work is in nobody's figure. Prints its port and the document's size in bytes, and
serves until its standard input closes.
"""

from __future__ import annotations

import html
import io
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from PIL import Image, ImageFilter

MODULE = "harbour.control"
SECTIONS = 14
FIGURES = 8  # one in each of as many sections
FORMATS = (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"))

WORDS = """a the and of to in is that it for with as by on an each every when while until before after which whose
river harbour ferry pilot lantern signal bell tide anchor cargo barge quay ledger clerk keeper watch crew rope mast
sail compass chart depth channel buoy current lock gate bridge tower station letter parcel message order record
arrives departs announces completes schedules cancelled waits carries holds returns reports opens closes
crosses follows keeps sends takes marks counts
early late empty full narrow steady quiet single second former whole given safe slow ready local common earlier
usually never already again twice together instead otherwise harbourmaster instruction registration
immediately repeatedly consecutive independent passenger destination temporarily"""
NAMES = """anchor barge berth bridge buoy cargo chart clerk compass convoy course crew depth dock escort ferry
fleet gate harbour keeper lantern ledger lock log mast passage pilot port quay rope route sail signal tide tower
vessel voyage watch wharf"""
ERRORS = ("TideError", "BerthTaken", "SignalLost", "ValueError", "LogClosed")

LINES = (  # a line of example code each; the letters in braces are names, numbers and words
    "import {a}",
    "from {a} import {b}, {c}",
    "# {w}",
    "async def {a}({b}, {c}={n}):",
    "    {a} = await {b}.{c}({n})",
    "    async with {a}.{b}({n}) as {c}:",
    "        {a} = {b}.{c}({d}({e}), {n})",
    "    for {a} in {b}.{c}({n}):",
    '        print("{w}", {a})',
    "    if {a} is None or {b} > {n}:",
    "        raise {x}({a}.{b})",
    "    return {a}",
    "",
    "{a}.run({b}())",
)
TOKEN = re.compile(
    r"""(?P<c1>\#.*)|(?P<s2>"[^"]*")|(?P<kn>\b(?:import|from)\b)|(?P<nb>\b(?:print|None)\b)
    |(?P<k>\b(?:async|def|await|with|as|for|in|if|is|or|raise|return)\b)|(?P<ne>\b[A-Z]\w+)|(?P<n>\b[a-z_]\w*)
    |(?P<mi>\d+)|(?P<o>[=.>]+)|(?P<p>[^\w\s]+)""",
    re.VERBOSE,
)

STYLE = """
body { background-color: #fff; color: #222; font: 16px/1.4 Arial, sans-serif; margin: 0 1em; padding: 0 }
div.related { border-bottom: 1px solid #ccc; line-height: 30px; margin: .5em 0 1.2em; padding: .5em 0 }
div.related ul { list-style: none; margin: 0; padding: 0 0 0 10px }
div.related li { display: inline; margin-right: 6px }
div.related li.right { float: right }
div.documentwrapper { float: left; width: 100% }
div.bodywrapper { margin: 0 0 0 245px }
div.body { padding: 0 0 30px 20px; line-height: 1.5 }
div.sidebar { float: left; width: 230px; margin-left: -100%; font-size: 90%; background: #eee }
div.sidebar ul { list-style: none; margin: 10px; padding: 0 }
div.sidebar ul ul { list-style: square; margin: 0 0 0 14px }
div.footer { clear: both; text-align: center; font-size: 75%; padding: 9px 0 }
h1, h2, h3 { font-weight: normal; color: #1a1a1a; margin: 1.2em 0 .6em }
h2 { border-bottom: 1px solid #ccc; padding-bottom: 4px }
p, ul, dl { margin: 0 0 .9em }
a { color: #0072aa; text-decoration: none }
a:hover { color: #00b0e4; text-decoration: underline }
a.headerlink { color: #c60f0f; font-size: .8em; padding: 0 4px; visibility: hidden }
code { background-color: #ecf0f3; border-radius: 3px; font: .9em monospace; padding: 0 2px }
a code { background-color: transparent; color: inherit }
pre { background-color: #eefbe8; border: 1px solid #ac9; border-radius: 3px; overflow: hidden; padding: 5px }
pre { font: 14px/1.2 monospace }
dt { font-weight: bold; font-family: monospace }
dt:target { background-color: #fbe54e }
dd { margin: 3px 0 10px 30px }
div.admonition { border: 1px solid #ccc; border-radius: 3px; background: #eee; margin: 10px 0; padding: 7px 10px }
div.admonition p { margin: 0 }
p.admonition-title { font-weight: bold }
div.versionchanged { border-left: 3px solid #d9b800; margin: 0 0 .9em; padding-left: 1rem }
span.versionmodified { font-style: italic }
figure { display: flex; flex-wrap: wrap; margin: 0 0 1em }
figure img { border: 1px solid #ccc; margin-right: 4px }
figcaption { width: 100%; font-size: 90% }
table { border-collapse: collapse; margin-bottom: 1em }
th, td { border: 1px solid #ccc; padding: 2px 8px; text-align: left }
@media print { div.related, div.sidebar { display: none } div.bodywrapper { margin: 0 } }
@media (max-width: 1023px) { div.sidebar { float: none; margin: 0; width: auto } div.bodywrapper { margin: 0 } }
"""
TOKEN_CLASSES = """hll c err k o ch cm cp cpf c1 cs gd ge gr gh gi go gp gs gu gt kc kd kn kp kr kt m s na nb nc no nd
ni ne nf nl nn nt nv ow w mb mf mh mi mo sa sb sc dl sd s2 se sh si sx sr s1 ss bp fm vc vg vi vm il n p"""


class Author:
    """Writes the page, from one source of chance."""

    def __init__(self) -> None:
        self._random = Random(1)
        self._words, self._names = WORDS.split(), NAMES.split()

    def words(self, low: int, high: int) -> str:
        return " ".join(self._random.choices(self._words, k=self._random.randint(low, high)))

    def name(self) -> str:
        return "_".join(self._random.sample(self._names, self._random.choice((1, 2, 2))))

    def literal(self) -> str:
        return f'<code class="docutils literal notranslate"><span class="pre">{self.name()}</span></code>'

    def reference(self) -> str:
        role, name = self._random.choice(("func", "meth", "class", "exc")), self.name()
        if role == "exc":
            name = self._random.choice(ERRORS)
        code = f'<code class="xref py py-{role} docutils literal notranslate"><span class="pre">{name}</span></code>'
        return f'<a class="reference internal" href="{MODULE}.html#{MODULE}.{name}" title="{MODULE}.{name}">{code}</a>'

    def sentence(self) -> str:
        """Words, and in most sentences a name that is set in another face or leads somewhere."""
        plain = (lambda: f"<em>{self.name()}</em>", lambda: "")
        inline = self._random.choice((self.literal, self.reference, self.reference, *plain))
        return f"{self.words(3, 8).capitalize()} {inline()} {self.words(2, 6)}."

    def paragraph(self, low: int = 1, high: int = 3) -> str:
        return "<p>" + "\n".join(self.sentence() for _ in range(self._random.randint(low, high))) + "</p>\n"

    def bullets(self, count: int) -> str:
        return "<ul>\n" + "".join(f"<li>{self.paragraph(1, 1)}</li>\n" for _ in range(count)) + "</ul>\n"

    def code(self, low: int, high: int) -> str:
        """A block of highlighted Python."""
        lines = []
        for _ in range(self._random.randint(low, high)):
            a, b, c, d, e = self._random.sample(self._names, 5)
            chance = {
                "n": self._random.randint(1, 99),
                "w": self.words(3, 6),
                "x": self._random.choice(ERRORS),
            }
            lines.append(self._random.choice(LINES).format(a=a, b=b, c=c, d=d, e=e, **chance))
        text = TOKEN.sub(
            lambda m: f'<span class="{m.lastgroup}">{html.escape(m[0])}</span>', "\n".join(lines)
        )
        return (
            '<div class="highlight-python3 notranslate"><div class="highlight">'
            f"<pre><span></span>{text}\n</pre></div>\n</div>\n"
        )

    def definition(self, kind: str) -> str:
        """A function, method or class: its signature, what it does, and at times since when."""
        name = self.name()
        parameters = ", ".join(
            f'<em class="sig-param"><span class="n"><span class="pre">{self.name()}</span></span></em>'
            for _ in range(self._random.randint(0, 3))
        )
        link = f'<a class="headerlink" href="#{MODULE}.{name}" title="Permalink to this definition">¶</a>'
        text = "".join(self.paragraph() for _ in range(self._random.randint(1, 3)))
        if self._random.random() < 0.7:
            text += (
                '<div class="versionchanged">\n<p><span class="versionmodified changed">Changed in version '
                f"3.{self._random.randint(1, 12)}: </span>{self.sentence()}</p>\n</div>\n"
            )
        return (
            f'<dl class="py {kind}">\n<dt class="sig sig-object py" id="{MODULE}.{name}">\n'
            f'<span class="sig-prename descclassname"><span class="pre">{MODULE}.</span></span>'
            f'<span class="sig-name descname"><span class="pre">{name}</span></span>'
            f'<span class="sig-paren">(</span>{parameters}<span class="sig-paren">)</span>{link}</dt>\n'
            f"<dd>{text}</dd></dl>\n"
        )

    def admonition(self) -> str:
        return (
            f'<div class="admonition note">\n<p class="admonition-title">Note</p>\n{self.paragraph()}</div>\n'
        )

    def table(self) -> str:
        rows = "".join(f"<tr><td>{self.literal()}</td><td>{self.sentence()}</td></tr>\n" for _ in range(3))
        return f'<table class="docutils align-default">\n<tr><th>Name</th><th>Meaning</th></tr>\n{rows}</table>\n'

    def figure(self, images: range) -> str:
        shown = "".join(
            f'<img src="/{number}.{FORMATS[number % 3][0]}" width="320" height="200" alt="Figure {number}">'
            for number in images
        )
        return f"<figure>{shown}<figcaption>{self.words(8, 14).capitalize()}.</figcaption></figure>\n"

    def section(self, number: int, title: str, images: range) -> str:
        heading = (
            f'<h2><a class="toc-backref" href="#id{number}" role="doc-backlink">{title}</a>'
            f'<a class="headerlink" href="#s{number}" title="Permalink to this heading">¶</a></h2>\n'
        )
        body = [self.paragraph(2, 4), self.paragraph()]
        body += [self.figure(images)] if images else [self.table()] if number % 5 == 3 else []
        body += [self.code(3, 8), self.bullets(5), self.definition("function"), self.paragraph()]
        body += [self.code(5, 10), self.admonition(), self.definition("method"), self.definition("method")]
        return f'<section id="s{number}">\n{heading}{"".join(body)}</section>\n'

    def page(self, images_each: int) -> str:
        titles = [self.words(2, 4).title() for _ in range(SECTIONS)]
        contents = "".join(
            f'<li><p><a class="reference internal" href="#s{number}" id="id{number}">{title}</a></p></li>\n'
            for number, title in enumerate(titles)
        )
        related = "".join(
            f'<li class="{side}"><a href="/{name}.html" title="{name.title()}" accesskey="{name[0]}">{name}</a></li>\n'
            for side, name in (
                ("right", "index"),
                ("right", "next"),
                ("left", "library"),
                ("left", "harbour"),
            )
        )
        sections = ""
        for number, title in enumerate(titles):
            images = range(number * images_each, (number + 1) * images_each) if number < FIGURES else range(0)
            sections += self.section(number, title, images)
        navigation = f'<div class="related" role="navigation">\n<ul>\n{related}</ul>\n</div>\n'
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Harbours and Ferries</title>\n'
            '<link rel="stylesheet" href="/theme.css">\n<link rel="stylesheet" href="/highlight.css">\n'
            f'</head>\n<body>\n{navigation}<div class="document">\n<div class="documentwrapper">\n'
            '<div class="bodywrapper">\n'
            f'<div class="body" role="main">\n<h1>Harbours and Ferries</h1>\n<ul class="simple">\n{contents}</ul>\n'
            f'{sections}</div>\n</div>\n</div>\n<div class="sidebar" role="navigation">\n<h3>Contents</h3>\n'
            f'<ul>\n{contents}</ul>\n</div>\n</div>\n<div class="footer">{navigation}</div>\n</body>\n</html>\n'
        )


def theme() -> str:
    """The page's own rules, and four times as many for what only other pages have: sites share their sheets."""
    random = Random(2)
    rules = []
    for name in NAMES.split():
        colour, shade = (f"#{random.randrange(2**24):06x}" for _ in range(2))
        rules.append(
            f"/* -- {name} {'-' * (60 - len(name))} */\n\n"
            f"div.{name}, section.{name} {{\n    margin: {random.randint(0, 20)}px 0;\n"
            f"    border: 1px solid {colour};\n}}\n"
            f"div.{name} > h3:first-child {{\n    color: {colour};\n    font-size: 1.2em;\n    padding: 3px 8px;\n}}\n"
            f"div.{name} ul li a.reference:hover {{\n    background-color: {shade};\n    text-decoration: none;\n}}\n"
            f"table.{name} td p.last, table.{name} th {{\n    text-align: left;\n    vertical-align: top;\n}}\n"
        )
    return STYLE + "\n".join(rules)


def highlighting() -> str:
    """A colour, and at times a face, for each class of token that a highlighter knows."""
    random = Random(3)
    faces = ("", "; font-weight: bold", "; font-style: italic")
    return "pre { line-height: 125%; }\n.highlight { background: #f8f8f8; }\n" + "".join(
        f".highlight .{name} {{ color: #{random.randrange(2**23):06x}{random.choice(faces)} }} /* Token: {name} */\n"
        for name in TOKEN_CLASSES.split()
    )


def picture(number: int, format_: str, size: tuple[int, int] = (320, 200)) -> bytes:
    """Soft noise: compresses about as well as a photograph does."""
    noise = Random(number).randbytes(size[0] // 8 * (size[1] // 8) * 3)
    image = Image.frombytes("RGB", (size[0] // 8, size[1] // 8), noise).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(3)).save(out, format_)
    return out.getvalue()


def site() -> dict[str, tuple[str, bytes]]:
    """Path: content type and body."""
    files = {
        "/": ("text/html; charset=utf-8", Author().page(1).encode()),
        "/gallery": ("text/html; charset=utf-8", Author().page(3).encode()),
        "/theme.css": ("text/css", theme().encode()),
        "/highlight.css": ("text/css", highlighting().encode()),
    }
    for number in range(3 * FIGURES):
        suffix, format_ = FORMATS[number % 3]
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

    class Site(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), OSError):  # clients end in the middle, or are killed
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Site(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], len(files["/"][1]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
