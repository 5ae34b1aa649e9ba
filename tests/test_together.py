"""Choosing together: E is what it is said to be, falls, and its map knows neither chunks nor workers nor restarts."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import photo, save
from hypothesis import given, settings
from hypothesis import strategies as st

from hirez_mosaic.errors import SettingError
from hirez_mosaic.jobs.render import render
from hirez_mosaic.pixels import far_view
from hirez_mosaic.pixels.compiled import compiled
from hirez_mosaic.pixels.far_view import REACH, FarView, far_values, half_cells
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.stages import together
from hirez_mosaic.stages.select import neighbours
from hirez_mosaic.stages.together import BLOCK, choice_gap, colour_of, energy, improve, near_costs, repeat_prices

FAR = FarView.of_weight(1.0)


def flat(level: float) -> np.ndarray:
    """(1, 8, 8, 3) of one grey in [0, 1]."""
    return np.full((1, 8, 8, 3), level, np.float32)


def problem(
    rows: int, columns: int, templates: int, k: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(first choices, the source's far values, those of the templates, candidates, near costs) of a random map."""
    rng = np.random.default_rng(seed)
    values = far_values(rng.random((templates, 8, 8, 3), np.float32))
    source = far_values(rng.random((rows * columns, 8, 8, 3), np.float32)).reshape(rows, columns, -1)
    order = np.argsort(rng.random((rows, columns, templates)), 2)[..., :k].astype(np.uint32)
    near = np.sort(rng.random((rows, columns, k), np.float32) * 3, 2)
    near -= near[..., :1]
    return order[..., 0].copy(), source, values, order, near


def total(
    index_map: np.ndarray,
    source: np.ndarray,
    values: np.ndarray,
    candidates: np.ndarray,
    near: np.ndarray,
    prices: np.ndarray,
    poses: int,
) -> float:
    mine = np.take_along_axis(near, (candidates == index_map[..., None]).argmax(2)[..., None], 2)
    return energy(index_map, source, values, mine, FAR, prices, poses)


def test_half_cells_are_means_in_luma_and_chroma() -> None:
    cell = np.zeros((1, 8, 8, 3), np.float32)
    cell[0, :4, 4:] = 1  # the upper right half cell is white
    grid = half_cells(far_values(cell).reshape(1, 1, -1))
    white = far_view.OPPONENT.sum(1)
    assert np.allclose(grid[:, 0, 1], white, atol=1e-6)
    assert np.allclose(grid[:, [0, 1, 1], [0, 0, 1]], 0, atol=1e-6)
    assert np.allclose(white[1:], 0, atol=2e-4)  # grey has no chroma


def test_the_field_is_the_kernel_laid_over_the_errors() -> None:
    errors = np.zeros((3, 40, 40), np.float32)
    errors[:, 20, 20] = 1
    radius = FAR.kernel.shape[1] // 2
    field = FAR.field(errors)
    assert np.allclose(field[:, 20 - radius : 21 + radius, 20 - radius : 21 + radius], FAR.kernel, atol=1e-6)
    assert radius == REACH * far_view.HALVES


def test_walsh_functions_diagonalise_the_kernel_within_a_cell() -> None:
    rng, mid = np.random.default_rng(0), FAR.kernel.shape[1] // 2
    values = rng.normal(size=(1, 1, 12)).astype(np.float32)
    halves = half_cells(values).reshape(3, 4)
    places = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    offsets = places[:, None] - places[None]
    within = FAR.kernel[:, mid + offsets[..., 0], mid + offsets[..., 1]]
    assert np.einsum("ka,kab,kb->", halves, within, halves) == pytest.approx(
        float((FAR.own * values.ravel() ** 2).sum()), rel=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    k=st.integers(1, 6),
    poses=st.sampled_from([1, 2]),
    price=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 99),
)
def test_no_single_cell_can_do_better_in_the_end(
    rows: int, columns: int, k: int, poses: int, price: float, seed: int
) -> None:
    first, source, values, candidates, near = problem(rows, columns, 8, k, seed)
    index_map = first.copy()
    everything = Box(0, rows, 0, columns)
    prices = np.float32(price) * np.random.default_rng(seed).random((rows, columns), np.float32)
    for _ in range(20):
        improve(index_map, everything, source, values, candidates, near, FAR, prices, poses)
    least = total(index_map, source, values, candidates, near, prices, poses)
    assert least <= total(first, source, values, candidates, near, prices, poses) + 1e-4
    rng = np.random.default_rng(seed)
    for _ in range(30):
        row, column, i = int(rng.integers(rows)), int(rng.integers(columns)), int(rng.integers(k))
        other = index_map.copy()
        other[row, column] = candidates[row, column, i]
        assert total(other, source, values, candidates, near, prices, poses) >= least - 1e-3


def test_a_grey_between_two_templates_is_mixed_of_both() -> None:
    """Alone, each cell takes the nearer one, and all are too light; together, they are right from afar."""
    values = far_values(np.concatenate([flat(0.45), flat(0.6)]))
    source = np.broadcast_to(far_values(flat(0.5)), (20, 20, 12)).copy()
    near = np.broadcast_to(near_costs(-192 * np.array([0.05**2, 0.1**2], np.float32), 1.0), (20, 20, 2)).copy()
    candidates = np.broadcast_to(np.arange(2, dtype=np.uint32), (20, 20, 2)).copy()
    index_map = np.zeros((20, 20), np.uint32)
    improve(index_map, Box(0, 20, 0, 20), source, values, candidates, near, FAR, np.zeros((20, 20), np.float32), 1)
    mean = 0.45 + 0.15 * index_map.mean()
    assert abs(mean - 0.5) < 0.02
    assert 0.2 < index_map.mean() < 0.45


def test_equal_templates_keep_apart_where_others_are_as_good() -> None:
    values = far_values(np.concatenate([flat(0.5)] * 16))
    source = np.broadcast_to(far_values(flat(0.5)), (24, 24, 12)).copy()
    candidates = np.broadcast_to(np.arange(16, dtype=np.uint32), (24, 24, 16)).copy()
    index_map = np.zeros((24, 24), np.uint32)
    prices = np.full((24, 24), 0.01, np.float32)
    improve(
        index_map, Box(0, 24, 0, 24), source, values, candidates, np.zeros((24, 24, 16), np.float32), FAR, prices, 1
    )
    assert (index_map[1:] == index_map[:-1]).sum() + (index_map[:, 1:] == index_map[:, :-1]).sum() == 0


def test_poses_of_one_template_count_as_equal() -> None:
    values = far_values(np.concatenate([flat(0.5)] * 4))
    source = np.broadcast_to(far_values(flat(0.5)), (1, 2, 12)).copy()
    candidates = np.array([[[0, 1], [1, 2]]], np.uint32)  # of templates 0 and 0, 0 and 1
    index_map = np.array([[0, 1]], np.uint32)
    improve(
        index_map,
        Box(0, 1, 0, 2),
        source,
        values,
        candidates,
        np.zeros((1, 2, 2), np.float32),
        FAR,
        np.full((1, 2), 0.01, np.float32),
        2,
    )
    assert index_map[0, 1] == 2


def test_the_price_is_in_the_cells_own_units_and_at_least_the_sets() -> None:
    near = np.arange(12, dtype=np.float32) * np.array([[[1.0], [100.0]]], np.float32)
    assert np.array_equal(repeat_prices(near, 20.0, 5000), together.REPEATS * np.array([[20.0, 900.0]]))
    assert np.array_equal(
        repeat_prices(near[..., ::-1], 20.0, 5000), repeat_prices(near, 20.0, 5000)
    )  # refined scores come in any order


def test_the_gap_of_a_set_knows_no_rounding() -> None:
    scores = np.zeros((5, 12), np.float32) - np.arange(12, dtype=np.float32)
    gap = choice_gap(scores, 1.0, 5000)
    assert gap == pytest.approx((together.RANK - 1) / 16, rel=0.01)
    assert choice_gap(scores * np.float32(1.0001), 1.1, 5000) == choice_gap(scores, 1.1, 5000)
    assert choice_gap(np.zeros((5, 1), np.float32), 1.0, 5000) == 0


def test_few_templates_may_repeat() -> None:
    scores = np.zeros((5, 12), np.float32) - np.arange(12, dtype=np.float32)
    assert not repeat_prices(-scores, 1.0, 62).any()
    assert choice_gap(scores, 1.0, 62) == pytest.approx(1 / 16, rel=0.01)
    assert choice_gap(scores, 1.0, 150) == pytest.approx(2 / 16, rel=0.01)


def test_blocks_of_one_turn_do_not_touch() -> None:
    grid = CellGrid(300, 200, (8, 8), Fraction(1))
    for block in grid.chunks((BLOCK, BLOCK)):
        around = neighbours(grid, block)
        assert len(around) == 8 or 0 in (block.top, block.left) or block.bottom == 300 or block.right == 200
        assert all(colour_of(other) != colour_of(block) for other in around)


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_the_map_is_the_same_whatever_the_chunks_and_workers(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder, maps = save(tmp_path / "source.png", photo(600, 1100)), make_templates(60), []
    for number, (chunk, workers) in enumerate([(17, 2), (64, 1), (104, 2)]):
        monkeypatch.setattr("hirez_mosaic.engine.threads.cores", lambda workers=workers: workers)
        work = tmp_path / f"work{number}"
        render(source, folder, 8, tmp_path / f"{number}.png", chunk=chunk, workspace=work, device="cpu", mirror=True)
        maps.append(np.asarray(zarr.open_array(work / "index_map", mode="r")[:]))
        alone = np.asarray(zarr.open_array(work / "best", mode="r")[:])
        assert (maps[-1] != alone).mean() > 0.2
    assert maps[0].shape == (75, 138)  # of several blocks in both directions
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_alone_is_each_cells_best(tmp_path: Path, make_templates: Callable[[int], Path]) -> None:
    source, folder = save(tmp_path / "source.png", photo(64, 64)), make_templates(20)
    for how, alone in (
        ({"choose": "alone"}, True),
        ({}, False),
        ({"decoder": "l2"}, True),
        ({"decoder": "l2", "choose": "together"}, False),
    ):
        work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        render(source, folder, 8, tmp_path / "out.png", workspace=work, device="cpu", overwrite=True, **how)
        group = zarr.open_group(work, mode="r")
        assert (np.asarray(group["index_map"][:]) == np.asarray(group["candidates"][:])[..., 0]).all() == alone, how


def test_wrong_ways_to_choose_are_refused(tmp_path: Path) -> None:
    for how, error in (
        ({"choose": "both"}, "`choose` is 'both'"),
        ({"effort": "most"}, "The effort is 'most'; use one of quick"),
        ({"far_weight": 0.0}, "`far_weight` counts in fitting and refining; add `refine=15`, or leave it out"),
        ({"effort": "best", "decoder": "l2"}, "`effort=best` adapts the residual decoder and `decoder` is l2"),
    ):
        with pytest.raises(SettingError, match=error):
            render(tmp_path / "a.png", tmp_path, **how)


def test_where_nothing_may_be_kept_functions_are_compiled_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def nowhere(cache: bool = False, **_: bool) -> Callable[..., Callable[[int], int]]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("hirez_mosaic.pixels.compiled.njit", nowhere)
    assert compiled(lambda number: number + 1)(1) == 2
    assert asked == [True, False]
