"""The house rule: the layout engine decodes no image that comes from outside.

In these tests whatever is decoded in an image process comes back green. So a red pixel was decoded by the engine.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .window import Window, picture

RED_PNG = picture((255, 0, 0), (60, 60))
RED = (255, 0, 0, 255)
GREEN = (0, 255, 0, 255)
DATA = "data:image/png;base64," + base64.b64encode(RED_PNG).decode()
REST = DATA[5:]
SVG_WITH_AN_IMAGE = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='60' height='60'>"
    f"<image width='60' height='60' href='{DATA}'/></svg>"
)


def data(content_type: str, text: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(text.encode()).decode()}"


SHOWN_BY_A_DECODER = {
    "an image": f"<img src='{DATA}'>",
    "space around it": f"<img src=' \n{DATA}'>",
    "a tab and capitals in the scheme": f"<img src='DA\tT\nA:{REST}'>",
    "a control character before it": f"<img src='\x01{DATA}'>",
    "character references": f"<img src='&#100;ata&colon;{REST}'>",
    "a candidate of srcset": f"<img srcset='{DATA} 1x'>",
    "a source of a picture": f"<picture><source srcset='{DATA}'><img src=no></picture>",
    "a background": f"<div style='width:60px;height:60px;background:url({DATA})'>",
    "a quoted background": f"<div style='width:60px;height:60px;background:url(\"{DATA}\")'>",
    "escaped letters": f"<style>div{{width:60px;height:60px;background:u\\72l(d\\61 ta:{REST})}}</style><div>",
    "an escaped colon": f"<style>div{{width:60px;height:60px;background:url(data\\3a {REST})}}</style><div>",
    "a backslash before the colon": f"<style>div{{width:60px;height:60px;background:url(data\\:{REST})}}</style><div>",
    "a line that goes on": f"<style>div{{width:60px;height:60px;background:url('da\\\nta:{REST}')}}</style><div>",
    "an escaped tab": f"<style>div{{width:60px;height:60px;background:url('da\\9 ta:{REST}')}}</style><div>",
    "a custom property": f"<style>div{{--u:url({DATA});width:60px;height:60px;background:var(--u)}}</style><div>",
    "generated content": f"<style>div::before{{content:url({DATA})}}</style><div>",
    "a list marker": f"<ul style='list-style-image:url({DATA})'><li>x</ul>",
    "the body's background": f"<body background='{DATA}'>",
    "a table's background": f"<table width=60 height=60 background='{DATA}'><tr><td>x</table>",
    "an image in svg": f"<svg width=60 height=60><image href='{DATA}' width=60 height=60 /></svg>",
    "an old link in svg": f"<svg width=60 height=60><image xlink:href='{DATA}' width=60 height=60 /></svg>",
    "a sheet in a data url": f"<link rel=stylesheet href='{data('text/css', f'body{{background:url({DATA})}}')}'>",
    "a sheet in a sheet": "<style>@import url({})</style>".format(
        data("text/css", f"@import '{data('text/css', f'body{{background:url({DATA})}}')}'")
    ),
    "an svg file": f'<img src="{data("image/svg+xml", SVG_WITH_AN_IMAGE)}">',
    "a type that says nothing": f"<img src='data:x/y;base64,{REST.partition(',')[2]}'>",
}

SHOWN_BY_NOBODY = {
    "an svg file that lies": f"<img src='data:image/svg+xml;base64,{REST.partition(',')[2]}'>",
    "the base of a fragment": f"<base href='{DATA}'><img src='#x'>",
    "the base of a path": "<base href='data://image/png,x'><img src='y'>",
    "a sheet injected by a font": f"<font face='x;background:url({DATA})'>x</font>",
    "a sheet injected by a colour": f"<body bgcolor='blue;background:url({DATA})'>",
    "an attribute of svg": f"<svg width=60 height=60><rect width=60 height=60 fill='url({DATA})'/></svg>",
    "an unfinished url": f"<style>body{{background:url({DATA}",
    "an unfinished string": f"<style>body{{background:url('{DATA}",
    "an object": f"<object data='{DATA}'></object>",
    "an embed": f"<embed src='{DATA}'>",
    "a frame": f"<iframe src='{DATA}'></iframe>",
    "a frame's document": f"<iframe srcdoc=\"<img src='{DATA}'>\"></iframe>",
    "a poster": f"<video poster='{DATA}'></video>",
    "a comment": f"<!-- ><img src='{DATA}'> -->",
    "raw text": f"<xmp><img src='{DATA}'></xmp>",
    "raw text of frames": f"<noframes><img src='{DATA}'></noframes>",
    "a text area": f"<textarea><img src='{DATA}'></textarea>",
    "a title": f"<title><img src='{DATA}'></title>",
    "a template": f"<template><img src='{DATA}'></template>",
    "a style's text": f"<style></ style><img src='{DATA}'></style>",
    "an entity of an svg file": '<img src="{}">'.format(
        data(
            "image/svg+xml", f"<!DOCTYPE svg [<!ENTITY d '{DATA}'>]>" + SVG_WITH_AN_IMAGE.replace(DATA, "&d;")
        )
    ),
    "foreign raw text": f"<svg><style><!-- </style><img src='{DATA}'> --></style></svg>",
    "an attribute's odd name": f"<p x\"<img/src='{DATA}' y>",
    "an attribute": f"<p title='><img src={DATA}>'>x",
    "a meta refresh": f"<meta http-equiv=refresh content='0;url={DATA}'>",
}


@pytest.mark.parametrize("name", SHOWN_BY_A_DECODER)
def test_an_image_in_a_data_url_is_decoded_elsewhere(window: Window, name: str) -> None:
    window.decoded_as = GREEN
    window.show("<!DOCTYPE html>" + SHOWN_BY_A_DECODER[name])
    colors = window.colors()
    assert RED not in colors
    assert GREEN in colors
    assert set(window.decoded) == {RED_PNG}


@pytest.mark.parametrize("name", SHOWN_BY_NOBODY)
def test_what_is_no_image_of_the_page_is_decoded_by_nobody_here(window: Window, name: str) -> None:
    window.decoded_as = GREEN
    window.show("<!DOCTYPE html>" + SHOWN_BY_NOBODY[name])
    assert RED not in window.colors()


@pytest.mark.parametrize(
    "content_type", ["text/css", "image/svg+xml", "font/woff", "text/plain", "image/bmp", ""]
)
@pytest.mark.parametrize(
    "html",
    [
        "<img src=x>",
        "<link rel=stylesheet href=x><img src=x>",
        "<style>@import 'x';body{background:url(x)}</style>",
        "<style>@font-face{font-family:f;src:url(x)}p{font-family:f;background:url(x)}</style><p>text",
        "<svg width=60 height=60><image href=x width=60 height=60 /></svg><svg><use href=x#a /></svg>",
    ],
)
def test_an_image_that_lies_about_its_type_is_not_decoded_here(
    window: Window, content_type: str, html: str
) -> None:
    window.decoded_as = GREEN
    window.site["http://site.test/x"] = (200, content_type, RED_PNG)
    window.show("<!DOCTYPE html>" + html)
    assert RED not in window.colors()


def test_a_style_sheet_that_could_be_read_as_an_image_is_not(window: Window) -> None:
    """A PPM file may be text: six letters of header, and pixels below 128."""
    ppm = b"P6 60 60 255\n" + b"\x7f\x01\x01" * 3600
    window.site["http://site.test/x"] = (200, "text/css", ppm)
    window.show("<link rel=stylesheet media=print href=x><img src=x>")
    assert (127, 1, 1, 255) not in window.colors()


PIECES = [
    "<img src='", "'>", "<style>", "</style>", "body{background:", "url(", ")", "}", DATA, DATA, "data:", REST,
    "d\\61 ta:", "<svg>", "</svg>", "<!--", "-->", "<xmp>", "</xmp>", "<title>", "</title>", "<table background='",
    "<math>", "<mtext>", "<p style='", "<font face='", "@import '", "'", '"', ";", "\\", "&#100;", "&Tab;",
    "<textarea>", "<![CDATA[", "]]>", "<noscript>", "<template>", "</", "<base href='", "<a x\"", " ", "\n",
    "<link rel=stylesheet href='",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
def test_no_markup_makes_the_engine_decode_an_image(window: Window, markup: str) -> None:
    window.decoded_as = GREEN
    window.show("<!DOCTYPE html>" + markup)
    assert RED not in window.colors(100, 70)
