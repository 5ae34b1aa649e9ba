"""ICC profiles for colours that a file describes by primaries and a curve (PNG's gAMA, cHRM and cICP, HEIF's nclx)."""

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""CIE xy of red, green, blue and white."""
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_D65 = (0.3127, 0.3290)
SRGB: Primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65),
}
"""Primaries by their number in ITU-T H.273."""
_SRGB_CURVES = (1, 2, 6, 13, 14, 15)  # transfer functions of H.273 that are shown like sRGB, as browsers do
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}  # exponents of others
_PQ, _HLG = 16, 18  # those of HDR pictures
_WHITE = 203.0  # cd/m2 of white in HDR pictures, ITU-R BT.2408; brighter px are shown as white
_HLG_WHITE = 0.75  # the signal of this white
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of code points of ITU-T H.273; None for those of sRGB, and for unknown ones."""
    if primaries not in PRIMARIES:
        return None
    if transfer in _SRGB_CURVES:
        return None if PRIMARIES[primaries] == SRGB else profile(PRIMARIES[primaries], None)
    if transfer in _POWERS:
        return profile(PRIMARIES[primaries], _POWERS[transfer])
    if transfer in (_PQ, _HLG):
        light = _perceptual_quantiser if transfer == _PQ else _hybrid_log_gamma
        return _made(PRIMARIES[primaries], _table(light), grey=False)
    return None


@cache
def profile(primaries: Primaries, gamma: float | None, grey: bool = False) -> bytes:
    """An ICC profile of version 2.

    gamma: light is the value to this power; sRGB's own curve where None.
    grey: whether it is for grey pictures.
    """
    return _made(primaries, _table(_srgb_light) if gamma is None else _power(gamma), grey)


def _power(gamma: float) -> bytes:
    """The tag of a curve that is a power."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, min(65535, max(1, round(gamma * 256)))) + bytes(2)


def _table(light: Curve, entries: int = 4096) -> bytes:
    """The tag of a curve that is a table. light: amount of light, 0 to 1, of values from 0 to 1."""
    values = np.clip(light(np.linspace(0, 1, entries)), 0, 1)
    return b"curv" + bytes(4) + struct.pack(">I", entries) + np.round(values * 65535).astype(">u2").tobytes()


def _srgb_light(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _perceptual_quantiser(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMPTE ST 2084, as parts of `_WHITE`."""
    root = value ** (1 / 78.84375)
    return 10000 / _WHITE * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def _hybrid_log_gamma(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100, as parts of the light of `_HLG_WHITE`."""

    def light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)

    return (light(value) / light(np.array(_HLG_WHITE))) ** 1.2


def _made(primaries: Primaries, curve: bytes, grey: bool) -> bytes:
    """The profile with this curve for all channels. curve: a tag."""
    name = b"made of the file's own words\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _number_tag(_D50),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        to_d50 = _to_d50(primaries)
        tags |= {name: _number_tag(to_d50[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _assembled(tags, b"GRAY" if grey else b"RGB ")


def _to_d50(primaries: Primaries) -> NDArray[np.float64]:
    """(3, 3) from linear RGB to CIE XYZ under D50, adapted by Bradford's method."""
    white = _xyz(primaries[3])
    columns = np.stack([_xyz(one) for one in primaries[:3]], 1)
    to_xyz = columns * np.linalg.solve(columns, white)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ to_xyz


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """The profile of these tags: header, table, tags. space: of its colours, four letters."""
    body, table = b"", struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">2I", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    header += bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in _D50))
    return header.ljust(128, b"\0") + table + body


def _xyz(xy: tuple[float, float]) -> NDArray[np.float64]:
    """CIE XYZ of a chromaticity, at Y = 1."""
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def _number_tag(values: NDArray[np.float64]) -> bytes:
    """The tag of a colour in CIE XYZ."""
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values.tolist()))
