"""The demo: scikit-image's astronaut, made of pieces of its picture of the Hubble deep field.

    python pipelines/demo.py FOLDER

Cuts 6,000 rotated and colour-shifted templates, then makes a mosaic of 4,096 x 4,096 px and a preview of it. The
recipes beside this script take their pictures from FOLDER, where it is `demo`:

    astronaut.png, hubble_deep_field.png   what the demo is made of
    templates/                             what it was cut into
    photos/                                a few more pictures of scikit-image's
"""

import os
import sys
from pathlib import Path

import pyvips
from skimage import data

from hirez_mosaic import Augmentation, augmented, render, write_templates
from hirez_mosaic.cli.console import ConsoleListener, print_summary


def main(folder: Path) -> None:
    """Make the demo in `folder`; what is there is replaced."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    astronaut, deep_field = folder / "astronaut.png", folder / "hubble_deep_field.png"
    photos = {
        folder / "photos" / f"{name}.png": picture
        for name, picture in (("cat", data.cat), ("coffee", data.coffee), ("rocket", data.rocket))
    }
    for path, picture in {astronaut: data.astronaut, deep_field: data.hubble_deep_field, **photos}.items():
        pyvips.Image.new_from_array(picture()).write_to_file(str(path))
    shifted = Augmentation((32, 32), colour_shift=1.0)  # it is nearly black: shift far
    write_templates(
        augmented([deep_field], 6000, shifted, jobs=os.cpu_count() or 1, skip=print),
        folder / "templates",
        overwrite=True,
    )
    listener = ConsoleListener()
    result = render(
        astronaut,
        folder / "templates",
        tile=32,
        output=folder / "astronaut.mosaic.tif",
        scale=8,  # 128 x 128 cells
        preview=folder / "astronaut.preview.png",
        overwrite=True,
        listener=listener,
    )
    print_summary(listener.console, result)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
