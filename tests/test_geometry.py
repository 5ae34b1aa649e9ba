from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hirez_mosaic.errors import SettingError
from hirez_mosaic.pixels.geometry import CELL, Box, CellGrid


def grid(rows, columns):
    return CellGrid(rows, columns, (32, 32), Fraction(1))


# --- boxes
# -------------------------------------------------------------------------------------------------------------

BOX = Box(2, 5, 10, 17)


def test_the_measures_of_a_box():
    assert (BOX.height, BOX.width, BOX.area) == (3, 7, 21)
    assert np.zeros((9, 20))[BOX.slices].shape == (3, 7)


def test_a_box_in_a_finer_unit():
    assert BOX.scaled(8) == Box(16, 40, 80, 136)


def test_a_box_grows_up_to_its_bounds():
    bounds = Box(0, 6, 0, 100)
    assert BOX.grown(0, bounds) == BOX
    assert BOX.grown(1, bounds) == Box(1, 6, 9, 18)
    assert BOX.grown(50, bounds) == Box(0, 6, 0, 67)


def test_a_box_within_another():
    assert BOX.within(Box(1, 9, 10, 30)) == Box(1, 4, 0, 7)


@given(st.integers(1, 50), st.integers(1, 50))
def test_halves_make_up_the_box_and_cut_its_longer_side(height, width):
    if height * width == 1:
        return
    first, second = Box(3, 3 + height, 7, 7 + width).halves()
    assert first.area + second.area == height * width
    assert min(first.area, second.area) >= 1
    assert (first.height == height) == (width > height)
    assert abs(first.area - second.area) <= min(height, width)


# --- the grid
# ----------------------------------------------------------------------------------------------------------


def test_the_grid_of_figure_5():
    figure = CellGrid.over((5280, 3960), (32, 32), Fraction(2))
    assert (figure.columns, figure.rows, figure.cells) == (330, 248, 81_840)
    assert figure.mosaic_size == (10_560, 7936)
    assert figure.source_step == (2, 2)
    assert figure.box == Box(0, 248, 0, 330)


def test_scale_one_where_none_is_given():
    assert CellGrid.over((64, 33), (32, 32)) == CellGrid(2, 2, (32, 32), Fraction(1))


def test_columns_settle_the_scale():
    made = CellGrid.over((5280, 3960), (32, 32), columns=330)
    assert (made.scale, made.columns, made.rows) == (2, 330, 248)


def test_a_tile_that_is_not_square():
    made = CellGrid.over((96, 96), (48, 16), Fraction(1))
    assert (made.columns, made.rows) == (2, 6)
    assert made.source_step == (6, 2)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 64),
    st.integers(1, 64),
    st.fractions(1, 9, max_denominator=99),
)
def test_the_grid_covers_the_source_and_no_cell_lies_outside(width, height, tile_width, tile_height, scale):
    made = CellGrid.over((width, height), (tile_width, tile_height), scale)
    assert (made.columns - 1) * tile_width < width * scale <= made.columns * tile_width
    assert (made.rows - 1) * tile_height < height * scale <= made.rows * tile_height
    assert made.source_step[0] * CELL * made.columns >= width
    assert made.source_step[1] * CELL * made.rows >= height


@given(st.integers(50, 5000), st.integers(1, 300), st.integers(1, 64))
def test_as_many_columns_as_asked_for(width, columns, tile):
    assert CellGrid.over((width, 5000), (tile, tile), columns=columns).columns == columns


def test_a_scale_that_leaves_nothing_is_refused():
    message = r"A source of 100 x 3 px at scale 0\.1 gives no cell of 32 x 32 px; use a larger `scale`, or `columns`"
    with pytest.raises(SettingError, match=message):
        CellGrid.over((100, 3), (32, 32), Fraction(1, 10))


def test_a_mosaic_beyond_libvips_is_refused():
    with pytest.raises(
        SettingError, match="would be 10000032 x 32 px, and 10000000 px a side is the most; use fewer `columns`"
    ):
        CellGrid.over((10_000_001, 1), (32, 32), Fraction(1))
    assert CellGrid.over((10_000_000, 1), (32, 32), Fraction(1)).mosaic_size == (10_000_000, 32)


# --- chunks
# ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70), st.integers(1, 70))
def test_chunks_partition_the_grid(rows, columns, down, across):
    times = np.zeros((rows, columns), int)
    for box in grid(rows, columns).chunks((down, across)):
        assert 1 <= box.height <= down
        assert 1 <= box.width <= across
        times[box.slices] += 1
    assert (times == 1).all()


def test_chunks_come_row_by_row():
    assert list(grid(3, 5).chunks((2, 3))) == [Box(0, 2, 0, 3), Box(0, 2, 3, 5), Box(2, 3, 0, 3), Box(2, 3, 3, 5)]


@given(st.integers(1, 3000), st.integers(1, 300))
def test_even_chunks_are_as_few_as_can_be_and_about_equal(length, side):
    down, across = grid(length, 7).even_chunk(side)
    assert down <= side
    assert across <= min(side, 7)
    assert -(-length // down) == -(-length // side)
    assert (down - 1) * -(-length // side) < length


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(8, 112), st.integers(2, 16))
def test_chunks_are_more_where_workers_are_through_sooner(rows, columns, side, workers):
    cells, halo, least = grid(rows, columns), 3, 6

    def time(chunk):
        turns = -(-len(list(cells.chunks(chunk))) // workers)
        return turns * (chunk[0] + 2 * halo) * (chunk[1] + 2 * halo)

    fewest, chosen = cells.even_chunk(side), cells.even_chunk(side, workers, halo, least)
    assert all(min(least, few) <= one <= few for one, few in zip(chosen, fewest, strict=True))
    assert chosen == fewest or time(chosen) < time(fewest)


def test_no_worker_waits_for_the_last_chunk_of_another():
    assert grid(248, 330).even_chunk(112) == (83, 110)  # 9 chunks, and 5 turns of two workers
    assert grid(248, 330).even_chunk(112, workers=2, halo=3, least=32) == (62, 110)  # 12, and 6
    assert grid(40, 40).even_chunk(112, workers=2, halo=3, least=32) == (40, 40)
