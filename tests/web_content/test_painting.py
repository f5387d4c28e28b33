from __future__ import annotations

from .window import Window

RED = (255, 0, 0, 255)
WHITE = (255, 255, 255, 255)


def test_a_red_box_is_red_where_it_stands_and_the_rest_is_white(window: Window) -> None:
    window.show("<body style='margin:0'><div style='position:absolute;left:50px;top:20px;width:30px;height:10px;background:red'>")
    assert window.pixel(55, 25) == RED
    assert window.pixel(45, 25) == WHITE
    assert window.pixel(55, 35) == WHITE
