"""Cut templates out of big pictures: square crops at random places, sizes and angles, their colours shifted.

    python pipelines/cut_templates.py PICTURES... --count 17500 --size 32 -o templates/

The paper's Fig. 5 is made of 17,500 such templates, cut out of a hundred pictures of the Hubble Space Telescope. The same seed gives
the same templates.
"""

from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path

import click
import numpy as np
import pyvips


def cut_templates(pictures: list[Path], count: int, size: int, folder: Path, shift: float = 0.5, seed: int = 0) -> None:
    """Write `count` PNG files of size x size px into `folder`: 00000.png, 00001.png, ...

    shift: how far, from 0 to 1, mean colours may move towards random ones, in CIELAB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loaded = [load(path) for path in pictures]

    def cut(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        picture = loaded[number % len(loaded)]
        # A square of side / sqrt(2) inside the crop has no empty corners at any angle.
        shortest = min(picture.width, picture.height)
        side = int(rng.uniform(min(2 * size, shortest), max(shortest / 2, min(2 * size, shortest))))
        left, top = (int(rng.integers(0, length - side + 1)) for length in (picture.width, picture.height))
        turned = picture.crop(left, top, side, side).similarity(angle=rng.uniform(0, 360))
        inner = int(side / sqrt(2)) - 2
        square = turned.crop((turned.width - inner) // 2, (turned.height - inner) // 2, inner, inner)
        small = square.thumbnail_image(size, height=size, size="force")
        lab = small.colourspace("lab")
        mean = [lab[band].avg() for band in range(3)]
        colour = pyvips.Image.new_from_array(rng.integers(0, 256, (1, 1, 3), np.uint8)).colourspace("lab")
        wanted = (colour * [1, *[rng.uniform(0, 1)] * 2])(0, 0)  # as many dull ones as bright ones
        way = rng.uniform(0, shift)  # of the way from its own mean colour to a random one
        moved = lab * rng.uniform(0.6, 1.4) + [way * (there - here) for here, there in zip(mean, wanted, strict=True)]
        moved.copy(interpretation="lab").colourspace("srgb").pngsave(str(folder / f"{number:05d}.png"), keep="none")

    with ThreadPoolExecutor() as pool:
        list(pool.map(cut, range(count)))


def load(path: Path) -> pyvips.Image:
    """A picture in memory as sRGB, by its profile where it has one, without alpha."""
    image = pyvips.Image.new_from_file(str(path))
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True, black_point_compensation=True)
    return image.colourspace("srgb")[:3].copy_memory()


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--count", default=17500, show_default=True, type=click.IntRange(1), help="Templates to cut.")
@click.option("--size", default=32, show_default=True, type=click.IntRange(4), help="Their side, px.")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), help="Folder to put them into.")
@click.option("--shift", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="How far mean colours move at most.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other templates.")
def main(pictures: tuple[Path, ...], count: int, size: int, folder: Path, shift: float, seed: int) -> None:
    """Cut templates out of PICTURES."""
    cut_templates(list(pictures), count, size, folder, shift, seed)


if __name__ == "__main__":
    main()
