"""Fitting and refining: what they optimise, what they promise, and that neither chunks nor workers show."""

import copy
import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import photo, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hirez_mosaic import render
from hirez_mosaic.jobs.checkpoint import TrainingState, decoder_state, load_checkpoint, save_checkpoint
from hirez_mosaic.nets import fitting
from hirez_mosaic.nets.blur import blur_tiled
from hirez_mosaic.nets.decoders import POOR, RICH, new_decoder, residual
from hirez_mosaic.nets.decoders.nearest import NearestAsSeen
from hirez_mosaic.nets.loss import MultiScaleLoss
from hirez_mosaic.nets.objective import Objective, Picture, placed
from hirez_mosaic.nets.training import CENTRED, PAPER, Trainer, TrainingRecipe, soft_mosaic, xavier_range
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.pixels import far_view
from hirez_mosaic.pixels.far_view import OPPONENT
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.stages import fit as fitting_stage
from hirez_mosaic.stages import refine, together
from hirez_mosaic.stages.encode import encode, second_moments
from hirez_mosaic.stages.start import is_rich
from hirez_mosaic.templates import TemplateSet

Weights = dict[str, torch.Tensor]


@pytest.fixture
def picture(thin_vgg: None, thin_weights: Weights) -> Picture:
    pixels = photo(96, 128, seed=3)
    features = encode(VGG16("pool3").load(thin_weights), pixels)[0].permute(1, 2, 0)
    return Picture(pixels, features.numpy(), torch.from_numpy(second_moments(features)))


@pytest.fixture
def objective(thin_vgg: None, thin_weights: Weights) -> Objective:
    templates = torch.from_numpy(np.stack([photo(8, 8, seed=number) for number in range(50)])).float() / 255
    return Objective(MultiScaleLoss(VGG16("conv5_1").load(thin_weights), edge="replicate"), templates, 1.0)


def test_the_papers_recipe_is_the_papers() -> None:
    assert (PAPER.steps, PAPER.batch, PAPER.window * 8, PAPER.far_weight) == (2000, 12, 512, 0.0)
    assert PAPER.rate_at(0) == 1
    assert PAPER.rate_at(250) == pytest.approx(0.96**2)
    assert PAPER.inverse_temperature_at(0) == PAPER.inverse_temperature_at(9) == 1
    assert PAPER.inverse_temperature_at(10) > 1
    assert 1 / PAPER.inverse_temperature_at(1999) == pytest.approx(0.067, abs=0.001)


def test_in_fewer_steps_the_curves_are_the_same() -> None:
    short = PAPER.in_steps(200)
    for step in range(200):
        assert short.rate_at(step) == PAPER.rate_at(10 * step)
        assert short.inverse_temperature_at(step) == pytest.approx(PAPER.inverse_temperature_at(10 * step), abs=1e-9)
    assert PAPER.in_steps(2000) == PAPER
    assert PAPER.in_steps(3).rate_at(2) == 0.96**2


@pytest.fixture
def many(objective: Objective) -> Objective:
    """The same objective with 600 templates of few colours, of which a start from Xavier weights takes many."""
    rng = np.random.default_rng(0)
    templates = rng.random((600, 1, 1, 3)) * 0.6 + rng.random((600, 8, 8, 3)) * 0.4
    return Objective(objective.loss, torch.from_numpy(templates).float(), 0.0)


def test_centred_steps_keep_templates_in_use_that_printed_ones_lose(picture: Picture, many: Objective) -> None:
    kept = []
    for recipe in (PAPER, CENTRED):
        decoder = new_decoder("paper", many.templates.unflatten(1, (8, 8, 3)), "f")
        trainer, (_, at_start) = Trainer(decoder, recipe), many.hard(decoder, [picture], [picture.box])
        for _ in range(8):
            trainer.run(many, [(picture, picture.box)])
        kept.append(many.hard(decoder, [picture], [picture.box])[1] / at_start)
    assert kept[0] < 0.5
    assert kept[1] > 0.8


def test_a_centred_step_of_weights_leaves_the_mean_response(picture: Picture, many: Objective) -> None:
    decoder = new_decoder("paper", many.templates.unflatten(1, (8, 8, 3)), "f")
    trainer, box = Trainer(decoder, CENTRED), Box(1, 9, 2, 12)
    features = torch.from_numpy(picture.features).flatten(0, 1).mean(0).float()
    inputs = features, Objective.queries(decoder, picture, box).detach().mean(0)

    def responses() -> list[torch.Tensor]:
        with torch.no_grad():
            pairs = zip(decoder.layers, inputs, strict=True)
            return [layer.weight.flatten(1) @ mean + layer.bias for layer, mean in pairs]

    before = responses()
    trainer.run(many, [(picture, box)])
    for layer, old, new in zip(decoder.layers, before, responses(), strict=True):
        own = CENTRED.rate * xavier_range(layer)  # Adam's first step of the bias
        assert (new - old).abs().max() < 1.01 * own + 1e-5
        assert (new - old).abs().max() > 0


def test_centred_steps_go_on_from_a_checkpoint(picture: Picture, many: Objective, tmp_path: Path) -> None:
    def new() -> Trainer:
        return Trainer(new_decoder("paper", many.templates.unflatten(1, (8, 8, 3)), "f"), CENTRED)

    def run(trainer: Trainer, boxes: list[Box]) -> Trainer:
        for box in boxes:
            trainer.run(many, [(picture, box)])
        return trainer

    boxes = [Box(0, 4, column, column + 4) for column in range(4)]
    whole, broken = run(new(), boxes), run(new(), boxes[:2])
    save_checkpoint(tmp_path / "c", TrainingState(broken, decoder_state(broken.decoder), 1.0, (1.0, 1)), {})
    resumed = run(load_checkpoint(tmp_path / "c", new().decoder, {}).trainer, boxes[2:])
    for one, other in zip(whole.decoder.parameters(), resumed.decoder.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole.decoder.spread.bias, broken.decoder.spread.bias)
    centres = [one.optimiser.state[one.decoder.spread.weight]["centre"] for one in (whole, resumed, broken)]
    assert torch.equal(centres[0], centres[1])
    assert not torch.equal(centres[0], centres[2])


@given(rows=st.integers(1, 300), columns=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_windows_lie_in_the_picture_and_apart_from_those_held_out(rows: int, columns: int) -> None:
    bounds = Box(0, rows, 0, columns)
    judged, held_out = fitting.judged_windows(bounds)
    windows = fitting.fit_windows(bounds, 32, judged if held_out else [])
    for window in [next(windows) for _ in range(20)] + judged:
        assert 0 <= window.top < window.bottom <= rows
        assert 0 <= window.left < window.right <= columns
    if not held_out:
        assert sum(window.area for window in judged) == bounds.area
    elif min(rows, columns) >= 200:
        assert not any(window.overlaps(other) for window in [next(windows) for _ in range(50)] for other in judged)


def test_the_gradient_reaches_all_that_is_learned(picture: Picture, objective: Objective) -> None:
    decoder = new_decoder("residual", objective.templates.unflatten(1, (8, 8, 3)), "f")
    with torch.no_grad():
        decoder.spread.weight += 0.01 * torch.randn(
            decoder.spread.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    told = objective.step(decoder, [(picture, Box(2, 10, 3, 12))], 5.0)
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert 0 < told.entropy < np.log(50)
    assert 1 <= told.distinct <= 50


@pytest.mark.parametrize("kind", ["residual", "paper"])
def test_windows_at_once_are_windows_one_by_one(picture: Picture, objective: Objective, kind: str) -> None:
    windows = [(picture, Box(0, 6, 1, 8)), (picture, Box(5, 11, 4, 11)), (picture, Box(2, 8, 9, 16))]
    at_once, one_by_one = (new_decoder(kind, objective.templates.unflatten(1, (8, 8, 3)), "f") for _ in range(2))
    together = objective.step(at_once, windows, 5.0)
    apart = [objective.step(one_by_one, [window], 5.0, 1 / 3) for window in windows]
    for figure in ("loss", "far", "entropy"):
        assert getattr(together, figure) == pytest.approx(np.mean([getattr(one, figure) for one in apart]), rel=1e-4)
    for one, other in zip(at_once.parameters(), one_by_one.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4 * one.grad.abs().max().item())


def test_with_many_templates_a_step_looks_at_the_best_alone(
    picture: Picture, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = new_decoder("residual", objective.templates.unflatten(1, (8, 8, 3)), "f")
    box = Box(0, 8, 0, 8)
    of_all = objective.step(decoder, [(picture, box)], 500.0)
    monkeypatch.setattr("hirez_mosaic.nets.objective._ALL", 10)
    of_the_best = objective.step(decoder, [(picture, box)], 500.0)
    assert of_the_best.loss == pytest.approx(of_all.loss, rel=1e-3)  # so cold that the others have no share
    assert of_the_best.distinct == of_all.distinct


def test_the_soft_mosaic_nears_the_hard_one_as_it_cools(picture: Picture, objective: Objective) -> None:
    templates = objective.templates.unflatten(1, (8, 8, 3))
    decoder = new_decoder("residual", templates, "f")
    decoder.inverse_temperature = 1e6
    queries = Objective.queries(decoder, picture, picture.box)
    hard = placed(objective.templates[decoder.logits(queries).argmax(1)], picture.box)
    torch.testing.assert_close(soft_mosaic(decoder, picture, templates), hard)


def test_fitting_never_ends_worse_than_it_began_and_usually_better(picture: Picture, objective: Objective) -> None:
    small = objective.templates.unflatten(1, (8, 8, 3))
    box = [picture.box]
    start, (least, _), _ = fitting.best_start(new_decoder("residual", small, "f"), objective, [picture], box)
    assert objective.hard(start, [picture], box)[0] == least
    done: list[int] = []
    fitted = fitting.fit(
        new_decoder("residual", small, "f"), picture, objective, 20, untouched=True, progress=done.append
    )
    assert sum(done) == 20
    assert objective.hard(fitted, [picture], box)[0] < least


def test_the_start_is_sharp_where_templates_match_what_lies_within_a_cell(
    picture: Picture, objective: Objective
) -> None:
    cells = (
        torch.from_numpy(picture.analysis).reshape(12, 8, 16, 8, 3).transpose(1, 2).reshape(192, 8, 8, 3).float() / 255
    )
    cells = torch.cat([0.5 + (cells.flip(turn) - 0.5) * strength for turn in ((), (1,), (2,)) for strength in (3, 1)])
    rich = Objective(
        objective.loss, cells, 1e6
    )  # RANDOM weights say little; every cell has its own px among the templates
    start, _, is_rich = fitting.best_start(new_decoder("residual", cells, "f"), rich, [picture], [picture.box])
    assert is_rich
    targets, sharp, blurred = start.template_keys()[0], cells.flatten(1), blur_tiled(cells).flatten(1)
    assert any(torch.equal(targets, torch.lerp(blurred, sharp, share)) for share in residual._SHARP)


def test_without_a_fit_a_rich_set_starts_sharper(picture: Picture) -> None:
    cells = picture.analysis.reshape(12, 8, 16, 8, 3).swapaxes(1, 2).reshape(192, 8, 8, 3)
    grid, plain = (
        CellGrid(12, 16, (8, 8), Fraction(1)),
        np.broadcast_to(cells.mean((1, 2), keepdims=True), cells.shape).astype(np.uint8),
    )
    checks = np.indices((8, 8)).sum(0)[..., None] % 2 * np.uint8(255)
    strewn = np.where(
        np.arange(64).reshape(8, 8, 1) % 3 == 0, 255 - cells, cells
    )  # far from any cell, however sharp one looks
    for pixels, rich in ((cells, True), (strewn, False), (np.broadcast_to(checks, (5, 8, 8, 3)), False), (plain, True)):
        small = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
        templates = TemplateSet(Path(), tuple(map(str, range(len(pixels)))), np.ascontiguousarray(pixels), "f")
        assert is_rich(templates, grid, picture.analysis) == rich
        decoder = NearestAsSeen(torch.from_numpy(templates.at_cell_size()), "", RICH if rich else POOR)
        asked = torch.rand(3, 192)
        blurred = blur_tiled(small).flatten(1)
        channels = (
            torch.from_numpy(OPPONENT)[:, :]
            * torch.tensor([1.25, 0.75, 0.75] if rich else [1.0, 1.0, 1.0]).sqrt()[:, None]
        )
        seen = [(of.view(-1, 64, 3) @ channels.T).flatten(1) for of in (asked, small.flatten(1), blurred)]
        sharp = 0.5 if rich else 0.0
        wanted = sharp * torch.cdist(seen[0], seen[1]) ** 2 + (1 - sharp) * torch.cdist(seen[0], seen[2]) ** 2
        scores = decoder.score()(decoder.queries(None, asked, None), slice(0, len(small)))
        assert torch.allclose(wanted[:, :1] - wanted, scores - scores[:, :1], atol=2e-3)
        assert not decoder.reads_features


def test_a_fit_that_goes_wrong_keeps_its_start(
    picture: Picture, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SMALL_SET", "RICH_SET"):
        monkeypatch.setattr(fitting, name, dataclasses.replace(getattr(fitting, name), rate=50.0, template_rate=50.0))
    decoder = new_decoder("residual", objective.templates.unflatten(1, (8, 8, 3)), "f")
    before = objective.hard(decoder, [picture], [picture.box])[0]
    said: list[str] = []
    done: list[int] = []
    fitted = fitting.fit(
        copy.deepcopy(decoder), picture, objective, 10, untouched=False, progress=done.append, say=said.append
    )
    assert "2 of 10 steps of fitting gained nothing" in said[0]  # no more are spent on it
    assert "the start is kept" in said[0]
    assert done == [1, 1, 8]
    assert objective.hard(fitted, [picture], [picture.box])[0] == before


@pytest.mark.parametrize(("coldest", "expected"), [(60.0, fitting.SMALL_SET), (200.0, fitting.RICH_SET)])
def test_a_trained_decoder_is_fitted_as_the_set_it_was_trained_for(
    coldest: float, expected: TrainingRecipe, picture: Picture, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[TrainingRecipe] = []
    monkeypatch.setattr(fitting, "Trainer", lambda decoder, recipe: recipes.append(recipe) or Trainer(decoder, recipe))
    decoder = new_decoder("residual", objective.templates.unflatten(1, (8, 8, 3)), "f")
    decoder.inverse_temperature = coldest
    fitting.fit(decoder, picture, objective, 1, untouched=False, progress=lambda done: None)
    assert recipes == [dataclasses.replace(expected, steps=1)]


def test_the_far_view_is_that_of_choosing_together(picture: Picture, objective: Objective) -> None:
    rows, columns = picture.box.height, picture.box.width
    cells = (
        picture.analysis.reshape(rows, 8, columns, 8, 3).swapaxes(1, 2).reshape(-1, 8, 8, 3).astype(np.float32) / 255
    )
    source = objective.source_window(picture.analysis, picture.box)
    values = far_view.far_values(objective.templates.unflatten(1, (8, 8, 3)).numpy())
    chosen = np.random.default_rng(0).integers(0, len(values), (rows, columns)).astype(np.uint32)
    nothing = np.zeros((rows, columns), np.float32)
    far = far_view.FarView.of_weight(1.0)
    expected = together.energy(
        chosen, far_view.far_values(cells).reshape(rows, columns, -1), values, nothing, far, nothing, 1
    )
    mosaic = placed(objective.templates[torch.from_numpy(chosen.astype(np.int64)).flatten()], picture.box)
    assert objective.far_energy(source, mosaic).item() == pytest.approx(expected / picture.box.area, rel=1e-4)


def test_fitting_weighs_the_far_view_by_that_of_the_nearest_half_cells(picture: Picture, objective: Objective) -> None:
    def halves(cells: np.ndarray) -> np.ndarray:
        return cells.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4), dtype=np.float64).reshape(-1, 12)

    cells = picture.analysis.reshape(12, 8, 16, 8, 3).swapaxes(1, 2).reshape(192, 8, 8, 3) / 255
    errors = ((halves(cells)[:, None] - halves(objective.templates.numpy())) ** 2).mean(2)
    source = objective.source_window(picture.analysis, picture.box)
    wanted, nearest = (
        objective.wanted(source),
        placed(objective.templates[torch.from_numpy(errors.argmin(1))], picture.box),
    )
    assert wanted.by_halves.item() == pytest.approx(objective.far_energy(source, nearest).item(), rel=1e-4)
    _, far = objective.terms(wanted, nearest)
    assert far.item() == pytest.approx(wanted.by_halves.item() / (wanted.by_halves.item() + 0.02), rel=1e-4)


def test_refining_lowers_eq3_without_giving_up_near_and_far(picture: Picture, objective: Objective) -> None:
    cells = torch.from_numpy(picture.analysis).reshape(12, 8, 16, 8, 3).transpose(1, 2).reshape(192, 192).float() / 255
    distance = torch.cdist(cells, objective.templates).square()
    found, candidates = distance.topk(8, 1, largest=False)
    near = (found - found[:, :1]) / (found[:, 4:5] - found[:, :1]).median()
    source = objective.source_window(picture.analysis, picture.box)

    @torch.no_grad()
    def losses(scores: torch.Tensor) -> tuple[float, float]:
        mosaic = placed(objective.templates[candidates.gather(1, scores.argmax(1, keepdim=True))[:, 0]], picture.box)
        eq3 = objective.loss.per_scale(objective.loss.activations(source), mosaic).mean().item()
        return eq3, objective.far_energy(source, mosaic).item()

    (eq3, far), free = (
        losses(-near),
        losses(refine.optimised(objective, source, candidates, 0 * near, 0.0, picture.box, 15)),
    )
    scored = refine.optimised(objective, source, candidates, near, 3 / far, picture.box, 15)
    assert scored.shape == candidates.shape
    assert losses(scored)[0] < eq3
    assert free[0] < eq3
    assert losses(scored)[1] < min(far, free[1])


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_fit_and_refine_do_not_depend_on_chunks(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "WINDOW", 6)
    monkeypatch.setattr(refine, "CONTEXT", 2)
    source, folder = save(tmp_path / "source.png", photo(88, 104)), make_templates(80)
    maps = []
    for chunk in (4, 100):
        work, output = tmp_path / f"work-{chunk}", tmp_path / f"{chunk}.png"
        result = render(
            source, folder, 8, output, fit=2, refine=2, chunk=chunk, workspace=work, precision="float32", device="cpu"
        )
        assert {"fit", "refine"} <= set(result.seconds)
        assert (work / "decoder.safetensors").exists()
        maps.append(zarr.open_array(work / "index_map", mode="r")[:])
    assert (maps[0] == maps[1]).mean() > 0.97  # what remains are ties within rounding
    plain = render(
        source,
        folder,
        8,
        tmp_path / "plain.png",
        fit=2,
        workspace=tmp_path / "plain",
        precision="float32",
        device="cpu",
    )
    assert (zarr.open_array(tmp_path / "plain" / "index_map", mode="r")[:] != maps[0]).any()
    assert "refine" not in plain.seconds


@pytest.mark.usefixtures("with_wide_weights")
def test_a_fit_is_cached_by_source_templates_and_settings(
    tmp_path: Path, own_cache: Path, make_templates: Callable[[int], Path]
) -> None:
    source, folder = save(tmp_path / "source.png", photo(48, 48)), make_templates(20)

    def cached() -> int:
        return len(list((own_cache / "decoders").glob("fitted-*")))

    render(source, folder, 8, tmp_path / "1.png", fit=3)
    render(source, folder, 8, tmp_path / "2.png", fit=3, chunk=2)
    save(tmp_path / "copy.png", photo(48, 48))
    render(tmp_path / "copy.png", folder, 8, tmp_path / "3.png", fit=3)
    assert cached() == 1
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    one, same = (np.asarray(Image.open(tmp_path / name)) for name in ("1.png", "3.png"))
    np.testing.assert_array_equal(one, same)  # whose name is in its file
    render(source, folder, 8, tmp_path / "4.png", fit=4)
    render(source, folder, 8, tmp_path / "5.png", fit=3, far_weight=7)
    render(save(tmp_path / "other.png", photo(48, 48, seed=8)), folder, 8, tmp_path / "6.png", fit=3)
    assert cached() == 4


def test_the_fits_used_last_are_kept_and_damaged_ones_made_again(
    tmp_path: Path,
    own_cache: Path,
    make_templates: Callable[[int], Path],
    with_random_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cached() -> dict[str, int]:
        return {file.name: file.stat().st_size for file in (own_cache / "decoders").glob("fitted-*")}

    templates = make_templates(9)

    def make(seed: int) -> bytes:
        source = save(tmp_path / f"{seed}.png", photo(64, 64, seed=seed))
        settings = {"fit": 2, "device": "cpu", "precision": "float32", "overwrite": True}
        return render(source, templates, 8, tmp_path / f"{seed}.tif", **settings).output.read_bytes()

    whole = make(1)
    (first,) = cached()
    monkeypatch.setattr(fitting_stage, "_FITTED_BYTES", 2 * cached()[first])
    make(2)
    assert len(cached()) == 2
    make(1)  # it is the one used last now
    make(3)
    assert first in cached()
    assert len(cached()) == 2
    (own_cache / "decoders" / first).write_bytes(b"half")
    assert make(1) == whole
    assert cached()[first] > 4
    monkeypatch.setattr(
        fitting_stage, "_keep_latest", lambda cache: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    make(4)
