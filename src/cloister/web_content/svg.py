"""SVG files, as images: text that is written anew before the layout engine reads it."""

from __future__ import annotations

import turbohtml
from turbohtml import Html

from . import css
from .css import Use
from .references import Adopt
from .urls import is_data

__all__ = ["rewrite"]

_XML = Html(xml=True)


def rewrite(text: str, adopt: Adopt) -> str | None:
    """The SVG document anew, or ``None`` where ``text`` is none.

    As in a browser's image mode (SVG Integration, "secure static mode") nothing is loaded from elsewhere:
    ``data:`` URLs become internal ones, references inside the document stay, others go. Entities and processing
    instructions are not carried over.
    """
    try:
        document = turbohtml.parse_xml(text)
    except turbohtml.HTMLParseError:
        return None
    root = document.root
    if root is None or root.tag != "svg":
        return None

    def replace(url: str, use: Use) -> str | None:
        if is_data(url):
            return adopt(url, use)
        return url if url.startswith("#") else None

    for element in list(root.iter_elements(include_self=True)):
        if element.tag in {"script", "foreignObject"}:
            element.decompose()
            continue
        for name, value in list(element.attrs.items()):
            if not isinstance(value, str):
                continue
            local = name.rpartition(":")[2]
            if local == "href":
                element.attrs[name] = replace(value.strip(), Use.IMAGE) or ""
            elif local == "base" or name.startswith("on"):
                del element.attrs[name]
            elif not name.startswith("xmlns") and ("(" in value or ":" in value or "\\" in value):
                element.attrs[name] = css.rewrite(value, replace)
        if element.tag == "style":
            sheet = "".join(
                n.data for n in element.children if isinstance(n, (turbohtml.Text, turbohtml.CData))
            )
            element.set_text(css.rewrite(sheet, replace))
    for node in list(root.descendants):
        if isinstance(node, turbohtml.Comment | turbohtml.ProcessingInstruction):
            node.extract()
    return root.serialize(_XML)
