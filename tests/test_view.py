"""The viewer's server: what it serves, and above all what it does not."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import pyvips
import zarr
from conftest import photo, save

from hirez_mosaic.errors import SettingError, SourceError, SourceNotFoundError
from hirez_mosaic.jobs.page import make_pages
from hirez_mosaic.jobs.view import served

SECRET = b"secret"


@contextmanager
def running(path: Path) -> Iterator[int]:
    """The port of a server of what is at `path`."""
    with served(path) as found:
        thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found.server.server_port
        finally:
            found.server.shutdown()
            thread.join()


def ask(port: int, name: str, host: str | None = None) -> tuple[int, bytes]:
    """(status, content) of a name exactly as it is written here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", name, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page, beside a file that is nobody's business and a folder whose name begins like the page's."""
    save(tmp_path / "wall.png", photo(60, 80))
    make_pages([tmp_path / "wall.png"], tmp_path / "page")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "page-of-another").mkdir()
    (tmp_path / "page-of-another" / "secret.txt").write_bytes(SECRET)
    return tmp_path / "page"


def test_a_page_is_served_as_it_is(page: Path) -> None:
    with running(page) as port:
        for name in ("/index.html", "/page.js", "/viewer/viewer.js", "/tiles/80x60/0/0.jpg"):
            assert ask(port, name) == (200, (page / name[1:]).read_bytes())
        assert ask(port, "/")[1] == (page / "index.html").read_bytes()
        assert ask(port, "/index.html?x=1")[0] == 200
        assert ask(port, "/viewer")[0] == 404  # no folder is listed
        assert ask(port, "/viewer/")[0] == 404


ELSEWHERE = [
    "/../secret.txt",
    "/viewer/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E%2Fsecret.txt",
    "/viewer/..%2f..%2fsecret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/%252e%252e/secret.txt",
    "/./../secret.txt",
    "//secret.txt",
    "/../page-of-another/secret.txt",
    "/%2e%2e/page-of-another/secret.txt",
    "/index.html%00.txt",
    "/%ff%fe",
    "/tiles/80x60/0/..%2f..%2f..%2f..%2fsecret.txt",
    "http://127.0.0.1/../secret.txt",
    "/C:/secret.txt",
    "/file:///etc/passwd",
]


@pytest.mark.parametrize("kind", ["page", "png", "dzi"])
def test_no_other_file_is_reached(page: Path, kind: str) -> None:
    place = page
    if kind != "page":
        place = page.with_name(f"wall.{kind}")
        pyvips.Image.new_from_array(photo(300, 300)).dzsave(str(page.with_name("wall"))) if kind == "dzi" else None
    with running(place) as port:
        absolute = page.with_name("secret.txt").absolute().as_posix()
        for name in [*ELSEWHERE, absolute, f"/{absolute}", f"/%2f{absolute[1:]}", "/etc/passwd"]:
            status, content = ask(port, name)
            assert status == 404, name
            assert SECRET not in content, name
        assert ask(port, "/index.html")[0] == 200


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
def test_links_lead_nowhere_outside(page: Path) -> None:
    (page / "away.txt").symlink_to(page.with_name("secret.txt"))
    (page / "up").symlink_to(page.parent)
    (page / "loop.txt").symlink_to(page / "loop.txt")
    (page / "inside.txt").symlink_to(page / "page.js")
    with running(page) as port:
        for name in ("/away.txt", "/up/secret.txt", "/up/page-of-another/secret.txt", "/loop.txt"):
            assert ask(port, name)[0] == 404, name
        for name in ("/inside.txt", "/up/page/page.js"):  # of the page itself
            assert ask(port, name)[0] == 200, name


def test_links_in_a_pyramid_lead_nowhere_outside(tmp_path: Path) -> None:
    pyvips.Image.new_from_array(photo(300, 300)).dzsave(str(tmp_path / "wall"))
    save(tmp_path / "private.jpeg", photo(20, 20))
    (tmp_path / "wall_files" / "9" / "0_0.jpeg").unlink()
    (tmp_path / "wall_files" / "9" / "0_0.jpeg").symlink_to(tmp_path / "private.jpeg")
    with running(tmp_path / "wall.dzi") as port:
        assert ask(port, "/tiles/9/0_0.jpeg")[0] == 404
        assert ask(port, "/tiles/9/1_0.jpeg") == (200, (tmp_path / "wall_files" / "9" / "1_0.jpeg").read_bytes())


def test_a_page_elsewhere_that_calls_itself_by_our_address_is_refused(page: Path) -> None:
    with running(page) as port:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
            assert ask(port, "/index.html", host)[0] == 403
        assert ask(port, "/index.html", f"localhost:{port}")[0] == 200


def test_it_listens_on_loopback_alone(page: Path) -> None:
    with served(page) as found:
        assert found.server.socket.getsockname()[0] == "127.0.0.1"
        assert found.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("kind", ["png", "tif", "zarr"])
def test_tiles_of_a_picture_are_cut_on_the_fly(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    smooth = pyvips.Image.new_from_array(rng.integers(0, 255, (10, 13, 3), np.uint8)).resize(90, kernel="cubic").numpy()
    path = tmp_path / f"wall.{kind}"
    if kind == "zarr":
        zarr.create_array(path, data=smooth, chunks=(100, 100, 3))
    else:
        image = pyvips.Image.new_from_array(smooth).copy(interpretation="srgb")
        image.tiffsave(str(path), tile=True, pyramid=True) if kind == "tif" else image.pngsave(str(path))
    before = sorted(path.name for path in tmp_path.iterdir())
    with running(path) as port:
        assert b'"size":[1170,900]' in ask(port, "/page.js")[1]
        for name, wanted in {
            "1170x900/1/2": smooth[512:, 1024:],
            "585x450/0/1": smooth.reshape(450, 2, 585, 2, 3).mean((1, 3))[:, 512:],
            "293x225/0/0": pyvips.Image.new_from_array(smooth).resize(0.25, kernel="linear").numpy()[:225, :293],
        }.items():
            status, content = ask(port, f"/tiles/{name}.jpg")
            assert status == 200
            seen = pyvips.Image.new_from_buffer(content, "").numpy()
            assert seen.shape == wanted.shape
            assert np.abs(seen - wanted.astype(float)).mean() < 4, name
        for name in ("1170x900/2/0", "1170x900/0/3", "9x9/0/0", "1170x900/0/0/0", "1170x900/-1/0"):
            assert ask(port, f"/tiles/{name}.jpg")[0] == 404, name
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_bad_input_is_a_sentence(tmp_path: Path, page: Path) -> None:
    (tmp_path / "bad.dzi").write_text("<Image/>")
    with pytest.raises(SourceNotFoundError, match="There is no file or folder"), served(tmp_path / "none.tif"):
        pass
    with (
        pytest.raises(SourceError, match="is no Deep Zoom file that can be read: it has no size"),
        served(tmp_path / "bad.dzi"),
    ):
        pass
    with pytest.raises(SourceError), served(tmp_path / "page-of-another"):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SettingError, match=f"The port {port} cannot be had: Address already in use"),
            served(page, port),
        ):
            pass
    with pytest.raises(SettingError, match="The port 70000 cannot be had"), served(page, 70000):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_ends_it(page: Path) -> None:
    words = [sys.executable, "-m", "hirez_mosaic", "view", str(page), "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert ask(int(address.split(":")[2].split("/")[0]), "/index.html")[0] == 200
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
