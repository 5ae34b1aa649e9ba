"""Pages as a PDF, which is written from its first byte to its last; one page is in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pydyf
import pyvips

from hirez_mosaic.outputs.printing.page import Line, Page, Picture, Text
from hirez_mosaic.outputs.printing.px import Ink, check_sides, deflate, save
from hirez_mosaic.settings.lengths import POINT
from hirez_mosaic.stages.assemble import Progress

_CHUNK = 1 << 20


def write_pdf(
    pages: Sequence[Page], file: Path, title: str, progress: Progress, ink: Ink, compression: str, quality: int
) -> None:
    """Write pages to a file. A picture is first packed in a file beside it. progress: called with pages done.

    Raises OutputError, and DiskSpaceError when the disk is full.
    """
    pdf = _Flowing()
    profile = pydyf.Stream([ink.icc], {"N": ink.channels}, compress=True)
    font = pydyf.Dictionary(
        {"Type": "/Font", "Subtype": "/Type1", "BaseFont": "/Courier-Bold", "Encoding": "/WinAnsiEncoding"}
    )
    for one in (profile, font):
        pdf.add_object(one)
    pdf.info.update(Title=pydyf.String(title), Producer=pydyf.String("hirez-mosaic"))
    if ink.profile is not None:
        pdf.catalog["OutputIntents"] = pydyf.Array([_intent(profile, ink.profile)])
    packed = file.with_name(f"{file.name}-picture")
    for page in pages:
        resources = pydyf.Dictionary({"Font": _one("F", font)})
        if page.picture is not None:
            check_sides(page.picture.size, compression)
            picture = _Lazy(partial(_packed, page.picture, profile, packed, ink, compression, quality))
            pdf.add_object(picture)
            resources["XObject"] = _one("P", picture)
        content = _Lazy(partial(_content, page, progress))
        pdf.add_object(content)
        pdf.add_page(_described(page, pdf, content, resources))
    with file.open("wb") as out:
        pdf.write(out, compress=True)
    packed.unlink(missing_ok=True)


class _Flowing(pydyf.PDF):  # type: ignore[misc]
    """A PDF whose objects may come in parts."""

    def write_line(self, content: bytes | Iterator[bytes], output: BinaryIO) -> None:
        for part in (content, b"\n") if isinstance(content, bytes) else content:
            self.current_position += len(part)
            output.write(part)


class _Lazy(pydyf.Stream):  # type: ignore[misc]
    """A stream that is made, part by part, when it is written."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        super().__init__()
        self._make = make

    @property
    def indirect(self) -> Iterator[bytes]:
        """The object, in parts."""
        yield f"{self.number} {self.generation} obj\n".encode()
        yield from self._make()
        yield b"\nendobj\n"


def _one(name: str, value: Any) -> Any:
    return pydyf.Dictionary({name: value.reference})


def _intent(profile: Any, path: Path) -> Any:
    name = pydyf.String(path.stem)
    return pydyf.Dictionary(
        {
            "Type": "/OutputIntent",
            "S": "/GTS_PDFX",
            "OutputConditionIdentifier": name,
            "Info": name,
            "DestOutputProfile": profile.reference,
        }
    )


def _described(page: Page, pdf: Any, content: Any, resources: Any) -> Any:
    (width, height) = page.paper
    left, top, right, bottom = page.trim or (0.0, 0.0, float(width), float(height))
    return pydyf.Dictionary(
        {
            "Type": "/Page",
            "Parent": pdf.pages.reference,
            "MediaBox": pydyf.Array([0, 0, _points(width), _points(height)]),
            "TrimBox": pydyf.Array(map(_points, (left, float(height) - bottom, right, float(height) - top))),
            "Resources": resources,
            "Contents": content.reference,
        }
    )


def _points(length: Any) -> str:
    """A length in mm as a PDF has it. 1,000 px at 300 px an inch are off by less than a thousandth of a px."""
    return f"{float(length) / float(POINT):.4f}".rstrip("0").rstrip(".")


def _packed(picture: Picture, profile: Any, packed: Path, ink: Ink, compression: str, quality: int) -> Iterator[bytes]:
    """A picture, packed into a file first, because a PDF says its length before its first byte."""

    def write(image: pyvips.Image) -> None:
        mixed = ink.mixed(image)
        if compression == "jpeg":
            mixed.jpegsave(str(packed), Q=quality, keep="none")
        else:
            with packed.open("wb") as out:
                deflate(mixed, out)

    save(picture.size, picture.bands, packed, write)
    described = pydyf.Dictionary(
        {
            "Type": "/XObject",
            "Subtype": "/Image",
            "Width": picture.size[0],
            "Height": picture.size[1],
            "ColorSpace": pydyf.Array(["/ICCBased", profile.reference]),
            "BitsPerComponent": 8,
            "Filter": "/DCTDecode" if compression == "jpeg" else "/FlateDecode",
            "Length": packed.stat().st_size,
        }
    )
    if compression != "jpeg":
        parts = {"Predictor": 2, "Colors": ink.channels, "BitsPerComponent": 8, "Columns": picture.size[0]}
        described["DecodeParms"] = pydyf.Dictionary(parts)
    elif ink.profile is not None:
        described["Decode"] = pydyf.Array([1, 0] * 4)  # JPEG has CMYK the other way round, as Adobe wrote it first
    yield described.data + b"\nstream\n"
    with packed.open("rb") as written:
        while part := written.read(_CHUNK):
            yield part
    yield b"\nendstream"


def _content(page: Page, progress: Progress) -> Iterator[bytes]:
    """What draws a page: its picture, then lines, then words."""
    stream, drawing, height = pydyf.Stream(compress=True), page.draw(), page.paper[1]
    if page.picture is not None:
        left, top, width, high = (side / page.density for side in (*page.picture.place, *page.picture.size))
        stream.push_state()
        stream.set_matrix(_points(width), 0, 0, _points(high), _points(left), _points(height - top - high))
        stream.draw_x_object("P")
        stream.pop_state()
    for line in drawing.lines:
        _draw_line(stream, line, float(height))
    for text in drawing.texts:
        _draw_text(stream, text, float(height))
    yield stream.data
    progress(1)


def _draw_line(stream: Any, line: Line, height: float) -> None:
    stream.stream.append(f"{line.grey:g} G")
    stream.set_line_width(_points(line.wide))
    stream.move_to(_points(line.start[0]), _points(height - line.start[1]))
    stream.line_to(_points(line.stop[0]), _points(height - line.stop[1]))
    stream.stroke()


def _draw_text(stream: Any, text: Text, height: float) -> None:
    x, y = text.left, height - text.y
    if text.boxed:
        left, bottom, right, top = text.box
        stream.stream.append("1 g")
        stream.rectangle(*map(_points, (left, height - bottom, right - left, bottom - top)))
        stream.fill()
    stream.stream.append("0 g")
    stream.begin_text()
    stream.set_font_size("F", _points(text.high))
    stream.set_text_matrix(1, 0, 0, 1, _points(x), _points(y))
    stream.show_text_string(text.words.encode("cp1252", "replace"))
    stream.end_text()
