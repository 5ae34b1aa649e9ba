"""ICC profiles made for colours that a file describes in other words: primaries and a curve (PNG's gAMA, cHRM and cICP,
HEIF's nclx).
"""

import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray

Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""CIE xy of red, green, blue and white."""

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
"""By their number in ITU-T H.273."""
_SRGB_CURVES = (1, 2, 6, 13, 14, 15)  # of H.273: shown like sRGB, as browsers do
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_WHITE = 203.0  # cd/m2 of white in HDR pictures, ITU-R BT.2408; what is brighter is shown as white
_HLG_WHITE = 0.75  # the signal of the same white
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of code points of ITU-T H.273; None for sRGB's, and for what is not known."""
    if primaries not in PRIMARIES:
        return None
    if transfer in _SRGB_CURVES:
        return None if PRIMARIES[primaries] == SRGB else profile(PRIMARIES[primaries], None)
    if transfer in _POWERS:
        return profile(PRIMARIES[primaries], _POWERS[transfer])
    if transfer in (16, 18):
        return _made(
            PRIMARIES[primaries], _table(_perceptual_quantiser if transfer == 16 else _hybrid_log_gamma), grey=False
        )
    return None


@cache
def profile(primaries: Primaries, gamma: float | None, grey: bool = False) -> bytes:
    """An ICC profile of version 2. gamma: light is the value to this power; sRGB's own curve where None."""
    return _made(primaries, _table(_srgb_light) if gamma is None else _power(gamma), grey)


def _power(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, min(65535, max(1, round(gamma * 256)))) + bytes(2)


def _table(light: object, entries: int = 4096) -> bytes:
    values = np.clip(light(np.linspace(0, 1, entries)), 0, 1)  # type: ignore[operator]
    return b"curv" + bytes(4) + struct.pack(">I", entries) + np.round(values * 65535).astype(">u2").tobytes()


def _srgb_light(value: NDArray[np.float64]) -> NDArray[np.float64]:
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
    white = _xyz(primaries[3])
    columns = np.stack([_xyz(one) for one in primaries[:3]], 1)
    to_xyz = columns * np.linalg.solve(columns, white)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    to_d50 = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ to_xyz
    name = b"made of the file's own words\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _number_tag(_D50),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        tags |= {name: _number_tag(to_d50[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    body, table = b"", struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">2I", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"GRAY" if grey else b"RGB "
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", kind, b"XYZ ", b"acsp")
    header += bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in _D50))
    return header.ljust(128, b"\0") + table + body


def _xyz(xy: tuple[float, float]) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1, (1 - x - y) / y])


def _number_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values.tolist()))
