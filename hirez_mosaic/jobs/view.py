"""View: a mosaic file or a page in the browser of this machine, served on loopback alone.

Tiles of pictures are cut when the browser asks for them. Nothing is written but a picture that must be unpacked. The
files of the page and the tiles of a Deep Zoom pyramid are served, and nothing else: a name that leads elsewhere, by
`..`, by an escape or by a link, is not found.
"""

import re
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from hirez_mosaic.engine.machine import settled
from hirez_mosaic.errors import SettingError, SourceError
from hirez_mosaic.outputs.pages import described_picture, jpeg, picture_levels, picture_tile, readable, viewer_files
from hirez_mosaic.settings.places import check_there

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_TYPES |= {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".txt": "text/plain; charset=utf-8",
}
_TILE = re.compile(r"tiles/(\d{1,9}x\d{1,9})/(\d{1,7})/(\d{1,7})\.jpg")
_DZI_TILE = re.compile(r"tiles/\d{1,2}/\d{1,7}_\d{1,7}\.(jpg|jpeg|png|webp)")
_KEPT_TILES = 256
_NAMESPACE = {"dz": "http://schemas.microsoft.com/deepzoom/2008"}

Find = Callable[[str], bytes | None]
"""Returns the content of a path below the page, which has no escapes any more; None where there is none."""


@dataclass
class Served:
    """A page that can be served.

    address: URL of its first file.
    server: bound to its port.
    """

    address: str
    server: ThreadingHTTPServer = field(repr=False)

    def run(self) -> None:
        """Serve until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            self.server.serve_forever(poll_interval=0.2)


def view(
    file: str | Path,
    *,
    port: int | None = None,
    no_browser: bool = False,
    listener: Callable[[str], None] = lambda address: None,
) -> None:
    """Show a mosaic in the browser until Ctrl-C.

    file: a page, a Deep Zoom pyramid (.dzi), or any picture: .tif, .zarr, .png and so on.
    port: on loopback; any that is free where None.
    no_browser: do not open the browser.
    listener: called with the address.

    Raises SettingError where the port cannot be used, SourceError for a file that is no picture.
    """
    with served(Path(file), port) as found:
        listener(found.address)
        if not no_browser:
            webbrowser.open(found.address)
        found.run()


@settled
@contextmanager
def served(path: Path, port: int | None = None) -> Iterator[Served]:
    """A server of the page, pyramid or picture at `path`; closed afterwards. port: any that is free where None."""
    with _finder(path) as find:
        try:
            server = _Server(port or 0, find)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingError(
                f"The port {port} cannot be had: {reason}; name another with `port`, or none."
            ) from error
        with server:
            yield Served(f"http://127.0.0.1:{server.server_port}/index.html", server)


@contextmanager
def _finder(path: Path) -> Iterator[Find]:
    """The function that finds the files of a page, of a Deep Zoom pyramid, or of a picture."""
    check_there(path)
    if path.is_dir() and (path / "index.html").is_file():
        yield lambda name: _content(path, name)
    elif path.suffix.lower() == ".dzi":
        yield _in_pyramid(path)
    else:
        with TemporaryDirectory(prefix="hirez-mosaic-") as scratch, readable(path, Path(scratch) / "source") as picture:
            yield _in_picture(picture, path.stem)


def _content(folder: Path, name: str) -> bytes | None:
    """The content of a file in a folder; None for a name that leads elsewhere, to no file, or to another kind."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part or ":" in part for part in parts):
        return None
    try:
        file = folder.joinpath(*parts).resolve(strict=True)
        inside = file.is_relative_to(folder.resolve()) and file.suffix.lower() in _TYPES and file.is_file()
        return file.read_bytes() if inside else None
    except (OSError, RuntimeError):  # not there, or a link to itself
        return None


def _in_pyramid(path: Path) -> Find:
    """Finds the viewer's files and the tiles of a Deep Zoom pyramid."""
    own, levels = viewer_files(_deep_zoom(path)), path.with_name(f"{path.stem}_files")

    def find(name: str) -> bytes | None:
        return _content(levels, name.removeprefix("tiles/")) if _DZI_TILE.fullmatch(name) else own.get(name)

    return find


def _deep_zoom(path: Path) -> dict[str, Any]:
    """The description of a Deep Zoom pyramid for page.js. Raises SourceError."""
    try:
        image = ElementTree.fromstring(path.read_bytes())
        size = image.find("dz:Size", _NAMESPACE)
        if size is None:
            raise ValueError("it has no size")
        width, height = int(size.attrib["Width"]), int(size.attrib["Height"])
        side, overlap, form = int(image.attrib["TileSize"]), int(image.attrib["Overlap"]), image.attrib["Format"]
        if min(width, height, side) < 1 or overlap < 0:
            raise ValueError("its sizes are not valid")
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        raise SourceError(f"{path} is no Deep Zoom file that can be read: {error}.") from error
    dzi: dict[str, Any] = {"width": width, "height": height, "tileSize": side, "tileOverlap": overlap}
    dzi |= {"tilesUrl": "tiles/", "fileFormat": form}
    return {"title": path.stem, "size": [width, height], "source": None, "cells": None, "dzi": dzi}


def _in_picture(picture: Any, title: str) -> Find:
    """Finds the viewer's files and the tiles of a picture, which are cut when they are asked for."""
    levels = picture_levels(picture.size)
    own = viewer_files(described_picture(title, levels[::-1]))
    named = {"x".join(map(str, level.size)): level for level in levels}

    @lru_cache(_KEPT_TILES)
    def tile(size: str, row: int, column: int) -> bytes | None:
        level = named.get(size)
        if level is None or column >= level.tiles[0] or row >= level.tiles[1]:
            return None
        return jpeg(picture_tile(picture, level)(column, row))

    def find(name: str) -> bytes | None:
        asked = _TILE.fullmatch(name)
        return tile(asked[1], int(asked[2]), int(asked[3])) if asked else own.get(name)

    return find


class _Server(ThreadingHTTPServer):
    """A server on loopback that starts at once, and whose threads end with the program.

    port: 0 for any that is free.
    find: of the files it serves.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = (
        128  # requests that may wait: a browser asks for many tiles at once, and further ones would be reset
    )

    def __init__(self, port: int, find: Find) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.find = find

    def server_bind(self) -> None:
        """Bind to the port, without asking for this machine's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    """Answers requests with what the server's `find` returns."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        status, name, content = self._found()
        self.send_response(status)
        self.send_header("Content-Type", _TYPES.get(Path(name).suffix.lower(), "text/plain; charset=utf-8"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def _found(self) -> tuple[HTTPStatus, str, bytes]:
        """(status, name of the file, content) for this request."""
        port = self.connection.getsockname()[1]
        # A page elsewhere may have a name of its own that leads to our address.
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return HTTPStatus.FORBIDDEN, "", b"This address is not served.\n"
        try:
            name = unquote(urlsplit(self.path).path, errors="strict").removeprefix("/") or "index.html"
            content = self.server.find(name)
        except (UnicodeDecodeError, ValueError):
            name, content = "", None
        except SourceError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "", f"{error}\n".encode()
        if content is None:
            return HTTPStatus.NOT_FOUND, "", b"There is no such file.\n"
        return HTTPStatus.OK, name, content

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the standard library's name)
        """Keep quiet."""
