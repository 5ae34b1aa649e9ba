"""A training step against the bare forward and backward of the same networks.

    python benchmarks/steps.py --templates emoji/ --tile 8

Method: one process; random px as picture, the real weights, windows of 32 x 32 cells (256 x 256 px). "Step" is
    `Trainer.run` on one
window: decoder, softmax, soft mosaic, Eq. 3 at three scales, far view, gradients, Adam. "Bare" is the same networks on
inputs of the same shapes and nothing else: VGG-16 up to conv5_1 forward on the source's three levels, forward and
backward on the mosaic's three, and the decoder's convolutions, logits and mixing forward and backward. The two take
turns; the first round of each is thrown away.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from common import machine_facts, print_table, spread

from hirez_mosaic.engine.machine import cores, settle_process
from hirez_mosaic.engine.threads import shared_cores
from hirez_mosaic.files.cache import cache_folder
from hirez_mosaic.nets.decoders import CELL_VALUES, FEATURES, LearnedDecoder, new_decoder
from hirez_mosaic.nets.device import device_name, resolve_device, resolve_precision
from hirez_mosaic.nets.fitting import SMALL_SET, WINDOW
from hirez_mosaic.nets.loss import SCALES, MultiScaleLoss, loss_network
from hirez_mosaic.nets.objective import Objective, Picture
from hirez_mosaic.nets.training import Trainer
from hirez_mosaic.nets.vgg import VGG16, make_encoder
from hirez_mosaic.nets.weights import resolve_weights
from hirez_mosaic.pixels.geometry import CELL, Box
from hirez_mosaic.settings.parsing import parse_tile
from hirez_mosaic.stages.encode import encode, second_moments
from hirez_mosaic.templates import load_templates


@click.command()
@click.option("--templates", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tile", default="8", help="Size of a template, px.")
@click.option("--device", default="auto")
@click.option("--rounds", default=20, help="Steps of each.")
def main(templates: Path, tile: str, device: str, rounds: int) -> None:
    """Print seconds a step, bare seconds, and their ratio."""
    settle_process()
    where = resolve_device(device)
    kind = resolve_precision("auto", where)
    weights = resolve_weights(None, cache_folder("weights"))
    found = load_templates(templates, parse_tile(tile), cache=cache_folder("templates"), jobs=cores())
    small = torch.from_numpy(found.at_cell_size())
    pixels = np.random.default_rng(0).integers(0, 256, (WINDOW * CELL, WINDOW * CELL, 3), np.uint8)
    features = encode(make_encoder(weights, where, kind), pixels)[0].permute(1, 2, 0).float().cpu()
    picture = Picture(pixels, features.numpy(), torch.from_numpy(second_moments(features)))
    vgg = loss_network(weights, where, kind)
    objective = Objective(MultiScaleLoss(vgg, edge="replicate"), small.to(where), 1.0)
    trainer = Trainer(new_decoder("residual", small, found.fingerprint).to(where), SMALL_SET)
    bare = new_decoder("residual", small, found.fingerprint).to(where)
    times: dict[str, list[float]] = {"step": [], "bare": []}
    with shared_cores(1):
        for _ in range(rounds + 1):
            for name, work in (
                ("step", lambda: trainer.run(objective, [(picture, Box(0, WINDOW, 0, WINDOW))])),
                ("bare", lambda: bare_step(vgg, bare, objective.templates)),
            ):
                start = time.perf_counter()
                work()
                if where.type == "cuda":
                    torch.cuda.synchronize(where)
                times[name].append(time.perf_counter() - start)
    step, plain = times["step"][1:], times["bare"][1:]
    print(
        f"{len(found)} templates, {device_name(where)}, {str(kind).removeprefix('torch.')}; medians (least to most) "
        f"of {rounds} steps."
    )
    print(machine_facts() + "\n")
    ratios = [a / b for a, b in zip(step, plain, strict=True)]
    print_table(["step, s", "bare networks, s", "ratio"], [[spread(step, 3), spread(plain, 3), spread(ratios)]])


def bare_step(vgg: VGG16, decoder: LearnedDecoder, templates: torch.Tensor) -> None:
    """The networks alone, forward and backward."""
    device, cells = templates.device, WINDOW**2
    features = torch.rand(1, FEATURES, WINDOW, WINDOW, device=device).to(memory_format=torch.channels_last)
    queries = decoder.spread(torch.relu(decoder.squeeze(features)))[0].flatten(1).T + torch.rand(
        cells, CELL_VALUES, device=device
    )
    mixed = decoder.logits(queries) @ templates
    mixed.backward(torch.ones_like(mixed))
    decoder.zero_grad()
    for scale in SCALES:
        side = WINDOW * CELL >> scale
        image = torch.rand(1, 3, side, side, device=device).to(memory_format=torch.channels_last)
        with torch.no_grad():
            vgg(image)
        image.requires_grad_()
        vgg(image)[0].sum().backward()


if __name__ == "__main__":
    main()
