"""Eq. 3 of the decoders and of the baselines on photos.

    python benchmarks/quality.py PHOTOS... --templates emoji/ --tile 8

Method: each photo's largest centred multiple of 8 px, at most --side, is its own analysis image: `hirez-mosaic render` runs on it with one
cell for 8 px, and its index map is read back from the workspace. The baselines take, for each cell, the template at 8 x 8 px with the
least L2 distance, or the highest SSIM (one window of 8 x 8 px, the mean of three channels). All are judged as mosaics of templates at
8 x 8 px: Eq. 3 in float32 with the real weights, and the squared error of cell means. Printed are the means over the photos.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import pyvips
import torch
import zarr
from common import machine_facts, print_table

from hirez_mosaic import render
from hirez_mosaic.cache import cache_folder
from hirez_mosaic.decode import best_k, cell_pixels
from hirez_mosaic.engine import cores
from hirez_mosaic.geometry import CELL
from hirez_mosaic.loss import multi_scale_loss
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.spec import parse_tile
from hirez_mosaic.templates import load_templates

_C1, _C2 = 0.01**2, 0.03**2  # SSIM's constants for values in [0, 1] (Wang et al., 2004)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tile", default="32", help="Size of a template, px.")
@click.option("--side", default=512, help="Largest side of a photo, px.")
def main(photos: tuple[Path, ...], templates: Path, tile: str, side: int) -> None:
    """Print Eq. 3, cell means and distinct templates by selection."""
    vgg = VGG16("conv5_1").load(resolve_weights(None, cache_folder("weights")))
    size = parse_tile(tile)
    found = load_templates(templates, size, cache=cache_folder("templates"), jobs=cores())
    small = torch.from_numpy(found.at_cell_size())
    told: dict[str, list[tuple[float, float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            image = pyvips.Image.new_from_file(str(photo)).colourspace("srgb")[:3]
            width, height = (min(side, length) // CELL * CELL for length in (image.width, image.height))
            cropped = Path(folder) / "photo.png"
            image.crop((image.width - width) // 2, (image.height - height) // 2, width, height).write_to_file(str(cropped))
            work, output = Path(folder) / "work", Path(folder) / "mosaic.zarr"
            columns = width // CELL
            if size[0] == size[1]:
                render(cropped, templates, size, output, scale=Fraction(size[0], CELL), workspace=work, overwrite=True)
            else:
                render(cropped, templates, size, output, columns=columns, workspace=work, overwrite=True)
            arrays = {name: zarr.open_array(work / name, mode="r") for name in ("analysis", "index_map")}
            pixels = torch.from_numpy(np.asarray(arrays["analysis"]))
            maps = {
                "L2": nearest_l2(pixels, small),
                "SSIM": nearest_ssim(pixels, small),
                "residual, untrained": torch.from_numpy(np.asarray(arrays["index_map"], np.int64)).flatten(),
            }
            for name, chosen in maps.items():
                told.setdefault(name, []).append(judge(vgg, pixels, small, chosen))
    print(f"{len(photos)} photos of at most {side} x {side} px, {len(found)} templates of {size[0]} x {size[1]} px")
    print(machine_facts() + "\n")
    means = {name: np.mean(values, axis=0) for name, values in told.items()}
    rows = [[name, f"{e:.3f}", f"{e / means['L2'][0]:.3f}", f"{m:.5f}", f"{used:.0f}"] for name, (e, m, used) in means.items()]
    print_table(["selection", "Eq. 3", "over L2", "cell means", "distinct"], rows)


def nearest_l2(pixels: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """(cells,) the template of least squared distance. pixels: (8 rows, 8 columns, 3) uint8. small: (N, 8, 8, 3)."""
    flat = small.flatten(1)
    return best_k(2 * cell_pixels(pixels), flat, -flat.square().sum(1), 1)[0][:, 0]


def nearest_ssim(pixels: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """(cells,) the template of the highest SSIM over one 8 x 8 window, the mean of three channels."""
    cells, templates = (of.unflatten(1, (-1, 3)).movedim(2, 0) for of in (cell_pixels(pixels), small.flatten(1)))  # (3, n, 64)
    means = [of.mean(2) for of in (cells, templates)]
    spreads = [of.var(2, correction=0) for of in (cells, templates)]
    chosen = []
    for start in range(0, cells.shape[1], 256):
        score = torch.zeros(min(256, cells.shape[1] - start), templates.shape[1])
        for channel in range(3):
            part = slice(start, start + 256)
            mine, theirs = means[0][channel, part, None], means[1][channel][None]
            shared = cells[channel, part] @ templates[channel].T / CELL**2 - mine * theirs
            spread = spreads[0][channel, part, None] + spreads[1][channel][None]
            score += (2 * mine * theirs + _C1) * (2 * shared + _C2) / ((mine**2 + theirs**2 + _C1) * (spread + _C2))
        chosen.append(score.argmax(1))
    return torch.cat(chosen)


def judge(vgg: VGG16, pixels: torch.Tensor, small: torch.Tensor, chosen: torch.Tensor) -> tuple[float, float, int]:
    """(Eq. 3, squared error of cell means, distinct templates) of a selection."""
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    placed = small[chosen].unflatten(0, (rows, columns)).permute(4, 0, 2, 1, 3)  # (3, rows, 8, columns, 8)
    mosaic = placed.reshape(1, 3, rows * CELL, columns * CELL)
    source = pixels.permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        far = (torch.nn.functional.avg_pool2d(mosaic, CELL) - torch.nn.functional.avg_pool2d(source, CELL)).square().mean()
        return multi_scale_loss(vgg, source, mosaic).item(), far.item(), len(chosen.unique())


if __name__ == "__main__":
    main()
