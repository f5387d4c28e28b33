from __future__ import annotations

from cloister.interfaces.web_content import TextFormat

from .window import Window

ARTICLE = """<!DOCTYPE html><html><head><title>On bees</title><style>p{color:red}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About</a> <a href="/contact">Contact</a></nav>
<main><article><h1>On bees</h1>
<p>Bees live in a hive, and a hive holds many thousands of them in the summer months of the year.</p>
<p>They <em>dance</em> to tell each other <a href="flowers.html#rose">where the flowers are</a>, which was
understood late, and only by somebody who had watched them with patience for many years.</p>
<table><tr><th>Kind</th><th>Number</th></tr><tr><td>Workers</td><td>30,000</td></tr></table>
<pre><code>for bee in hive:
    bee.fly()</code></pre>
<img src="bee.jpg" alt="A bee"></article></main>
<script>hidden()</script><p hidden>not shown</p><p style="display: none">nor this</p>
<footer><a href="https://other.test/">Other</a> <a href="/">Home again</a> <a href="mailto:a@b.test">Mail</a>
<a name="x">no link</a> <a href="/image"><img src=i alt="Pictured"></a> <a href="https://[bad">bad</a></footer>
</body></html>"""


def test_the_text_is_what_a_reader_sees(window: Window) -> None:
    window.show(ARTICLE)
    text = window.text()
    assert text.startswith("Home")
    assert "Bees live in a hive" in text
    assert "    bee.fly()" in text
    for hidden in ("hidden()", "not shown", "nor this", "color:red"):
        assert hidden not in text
    assert "\n\n\n" not in text


def test_markdown_is_the_main_content_with_its_links_resolved(window: Window) -> None:
    window.show(ARTICLE, base_url="http://site.test/bees/page.html")
    markdown = window.text(TextFormat.MARKDOWN)
    assert markdown.startswith("# On bees\n")
    assert "[where the flowers are](http://site.test/bees/flowers.html#rose)" in markdown
    assert "![A bee](http://site.test/bees/bee.jpg)" in markdown
    assert "| Workers | 30,000 |" in markdown
    assert "Contact" not in markdown


def test_markdown_of_a_page_without_main_content_is_the_whole_page(window: Window) -> None:
    window.show("<p>short<p>page")
    assert window.text(TextFormat.MARKDOWN) == "short\n\npage\n"


def test_links_are_resolved_once_each_in_the_order_of_the_page(window: Window) -> None:
    window.show(ARTICLE, base_url="http://site.test/bees/page.html")
    assert [(link.url, link.text) for link in window.links()] == [
        ("http://site.test/", "Home"),
        ("http://site.test/about", "About"),
        ("http://site.test/contact", "Contact"),
        ("http://site.test/bees/flowers.html#rose", "where the flowers are"),
        ("https://other.test/", "Other"),
        ("mailto:a@b.test", "Mail"),
        ("http://site.test/image", "Pictured"),
    ]


def test_links_end_at_ten_thousand(window: Window) -> None:
    window.show("".join(f"<a href=/{n}>{n}</a>" for n in range(10_050)))
    links = window.links()
    assert len(links) == 10_000
    assert links[-1].url == "http://site.test/9999"


def test_a_long_link_text_is_cut_and_a_long_url_left_out(window: Window) -> None:
    window.show(f"<a href=/a>{'x' * 5000}</a><a href='/{'y' * 9000}'>b</a>")
    (link,) = window.links()
    assert len(link.text) == 1000
