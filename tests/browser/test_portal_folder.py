"""The folder of the portal: this user's alone, one portal's at a time, and never in the place of anything else."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cloister import CloisterError
from cloister.browser import portal_folder
from cloister.browser.portal_folder import PortalFolder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_default_is_below_the_runtime_folder_and_made_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with closing(PortalFolder(None)) as folder:
        assert folder.path == runtime / "cloister" / "portal"
        for made in (folder.path, folder.path.parent):
            assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("runtime", [None, "", "relative/run"])
def test_without_a_runtime_folder_there_is_one_for_each_user_and_a_warning(
    runtime: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert Path("/tmp") == portal_folder._FALLBACK
    monkeypatch.setattr(portal_folder, "_FALLBACK", tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    with closing(PortalFolder(None)) as folder:
        assert folder.path == tmp_path / f"cloister-{os.geteuid()}" / "portal"
    assert "XDG_RUNTIME_DIR names no folder" in caplog.text


def open_to_others(place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)


def open_to_a_group(place: Path) -> None:
    place.mkdir()
    place.chmod(0o710)


def closed_to_us(place: Path) -> None:
    place.mkdir(0o500)


def a_link(place: Path) -> None:
    target = place.with_name("target")
    target.mkdir(0o700)
    place.symlink_to(target)


def a_file(place: Path) -> None:
    place.write_text("")


def of_another_user(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    place.mkdir(0o700)
    os.chown(place, 65534, 65534)


UNFIT = [open_to_others, open_to_a_group, closed_to_us, a_link, a_file, of_another_user]


@pytest.mark.parametrize("make", UNFIT)
def test_a_folder_that_is_not_ours_alone_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "portal")
    with pytest.raises(CloisterError, match="cannot hold a portal: .*Set XDG_RUNTIME_DIR"):
        PortalFolder(tmp_path / "portal")


@pytest.mark.parametrize("make", UNFIT)
def test_what_another_user_may_have_put_in_the_place_of_the_default_is_refused(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_folder, "_FALLBACK", tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    make(tmp_path / f"cloister-{os.geteuid()}")
    with pytest.raises(CloisterError, match="cannot hold a portal"):
        PortalFolder(None)


@pytest.mark.parametrize("make", [*UNFIT, lambda place: None])
def test_a_runtime_folder_that_is_none_is_refused_and_never_made(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    make(runtime)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with pytest.raises(CloisterError, match="cannot hold a portal"):
        PortalFolder(None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match="No such file or directory"):
        PortalFolder(tmp_path / "no" / "where")


def test_one_portal_holds_it_until_it_is_closed(tmp_path: Path) -> None:
    place = tmp_path / "portal"
    with closing(PortalFolder(place)) as first, first.listen("web_content"):
        with pytest.raises(CloisterError, match=f"{place}: another portal serves there"):
            PortalFolder(place)
        assert names(place) == ["web_content"]
    with closing(PortalFolder(place)) as second:
        assert names(place) == []
        second.close()


def test_the_socket_of_a_portal_that_was_killed_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "portal"
    place.mkdir(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(str(place / "web_content"))
    with closing(PortalFolder(place)) as folder, folder.listen("web_content"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(place / "web_content"))
        assert stat.S_IMODE((place / "web_content").stat().st_mode) == 0o600
    assert names(place) == []


def test_what_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    place = tmp_path / "portal"
    with closing(PortalFolder(place)) as folder:
        (place / "web_content").write_text("somebody's work")
        (place / "image_decoder").symlink_to(place / "web_content")
        for name in names(place):
            with pytest.raises(CloisterError, match=f"{name} is not a socket, and is left as it is"):
                folder.listen(name)
    assert (place / "web_content").read_text() == "somebody's work"
    assert names(place) == ["image_decoder", "web_content"]


def test_a_path_that_the_kernel_has_no_room_for_is_named(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 100)
    with (
        closing(PortalFolder(place)) as folder,
        pytest.raises(CloisterError, match="web_content: no socket can be made there: .*too long"),
    ):
        folder.listen("web_content")
    assert names(place) == []
