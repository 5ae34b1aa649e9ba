from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hirez_mosaic.pixels.resample import resample, span

ONE = Fraction(1)


def box_of(picture, rows, columns, steps):
    """The resampled box of a picture whose edge px repeat beyond it."""
    height, width = picture.shape[:2]
    down = np.clip(np.arange(*span(*rows, steps[1])), 0, height - 1)
    across = np.clip(np.arange(*span(*columns, steps[0])), 0, width - 1)
    return resample(picture[down][:, across], rows, columns, steps)


def by_pillow(picture, size, margin=60):
    """Pillow's Lanczos, its axes in our order; it drops what lies beyond its edge, so the edge is repeated before."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), "edge")
    turned = Image.fromarray(padded.transpose(1, 0, 2))
    box = (margin, margin, margin + height, margin + width)
    return np.asarray(turned.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)).transpose(1, 0, 2)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype="u1")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((64, 48), (32, 24)),
        ((64, 48), (64, 96)),
        ((50, 70), (33, 100)),
        ((90, 31), (13, 77)),
        ((97, 101), (7, 5)),
        ((40, 40), (40, 39)),
    ],
)
def test_equals_pillow_within_one_level(size, wanted):
    picture = noise(*size)
    steps = (Fraction(size[1], wanted[1]), Fraction(size[0], wanted[0]))
    ours = box_of(picture, (0, wanted[0]), (0, wanted[1]), steps)
    assert np.abs(ours.astype(int) - by_pillow(picture, (wanted[1], wanted[0]))).max() <= 1


STEPS = st.fractions(Fraction(1, 7), Fraction(7), max_denominator=1000)


@st.composite
def boxes(draw):
    length = 60
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length))


@given(st.tuples(STEPS, STEPS), boxes(), boxes(), st.integers(0, 5))
@example((Fraction(1, 2), Fraction(2)), (15, 17), (16, 33), 0)
@example((ONE, Fraction(3, 2)), (0, 60), (59, 60), 0)
@settings(max_examples=40, deadline=None)
def test_any_box_is_that_part_of_the_whole(steps, rows, columns, seed):
    picture = noise(40 + 7 * seed, 90 - 11 * seed, seed)
    whole = box_of(picture, (0, 60), (0, 60), steps)
    np.testing.assert_array_equal(box_of(picture, rows, columns, steps), whole[slice(*rows), slice(*columns)])


@given(boxes(), boxes())
@settings(max_examples=10, deadline=None)
def test_step_one_is_the_identity(rows, columns):
    picture = noise(60, 60)
    np.testing.assert_array_equal(box_of(picture, rows, columns, (ONE, ONE)), picture[slice(*rows), slice(*columns)])


def test_step_one_along_one_axis_leaves_that_axis_alone():
    picture = np.repeat(noise(40, 1), 30, axis=1)
    np.testing.assert_array_equal(box_of(picture, (0, 40), (0, 20), (Fraction(3, 2), ONE)), picture[:, :20])


@given(st.tuples(STEPS, STEPS), st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_flat_stays_flat(steps, level):
    picture = np.full((30, 50, 3), level, "u1")
    np.testing.assert_array_equal(box_of(picture, (0, 20), (0, 35), steps), np.full((20, 35, 3), level))


def test_a_checkerboard_shrinks_to_its_mean():
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    small = box_of(np.dstack([board] * 3).astype("u1"), (2, 6), (2, 6), (Fraction(8), Fraction(8)))
    assert set(np.unique(small)) <= {127, 128}


def test_the_span_is_six_px_of_the_coarser_image():
    assert span(0, 1, ONE) == (-3, 4)
    assert span(10, 11, Fraction(8)) == (60, 108)
    assert span(10, 11, Fraction(1, 2)) == (2, 9)
