"""The colours of a PNG by its own chunks: cICP before an ICC profile, that before sRGB, that before gAMA and cHRM."""

import struct
from pathlib import Path

from hirez_mosaic.pixels.profiles import SRGB, Primaries, coded_profile, profile

_MOST_CHUNKS = 1000
_LIKE_SRGB = 0.05  # a gamma this near to 1 / 2.2, relatively, is sRGB's, as libpng has it


def png_profile(path: Path, icc: bytes | None, grey: bool) -> bytes | None:
    """Find the ICC profile of a PNG: that of its cICP, its own, or one made of its gAMA and cHRM; None for sRGB.

    icc: its own, as libpng gives it.
    grey: whether the picture is grey.
    """
    chunks = _small_chunks(path)
    if len(chunks.get(b"cICP", b"")) == 4 and not grey:
        return coded_profile(chunks[b"cICP"][0], chunks[b"cICP"][1])
    if icc is not None or b"sRGB" in chunks or b"iCCP" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return icc
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
    primaries = _primaries(chunks.get(b"cHRM", b""))
    plain = abs(gamma * 2.2 - 1) < _LIKE_SRGB
    if not 0.01 < gamma < 100 or (plain and primaries == SRGB):
        return None
    return profile(SRGB if grey else primaries, None if plain else 1 / gamma, grey)


def _primaries(chunk: bytes) -> Primaries:
    """Read those of a cHRM chunk; they are sRGB's where the chunk lacks, nearly equals sRGB, or makes no sense."""
    if len(chunk) != 32:
        return SRGB
    x, y = (struct.unpack(">8I", chunk)[at::2] for at in (0, 1))
    white, red, green, blue = ((one / 100_000, other / 100_000) for one, other in zip(x, y, strict=True))
    named: Primaries = (red, green, blue, white)
    near = all(
        abs(a - b) < 0.002 for one, other in zip(named, SRGB, strict=True) for a, b in zip(one, other, strict=True)
    )
    area = (red[0] - green[0]) * (blue[1] - green[1]) - (red[1] - green[1]) * (blue[0] - green[0])
    return SRGB if near or abs(area) < 0.01 or min(xy[1] for xy in named) <= 0.001 else named


def _small_chunks(path: Path) -> dict[bytes, bytes]:
    """Read the chunks before the px, by name; those above 32 bytes come without their data."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IDAT":
                break
            length = int.from_bytes(head[:4])
            found[head[4:]] = file.read(length) if length <= 32 else b""
            file.seek(4 if length <= 32 else length + 4, 1)
    return found
