"""Rules for repeating templates: never broken, never stuck, and the same whatever the chunks are."""

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import photo, save
from hypothesis import given, settings
from hypothesis import strategies as st

from hirez_mosaic.errors import SettingError, TemplateError
from hirez_mosaic.jobs.render import render
from hirez_mosaic.nets.scoring import best_k
from hirez_mosaic.pixels.far_view import FarView, far_values
from hirez_mosaic.pixels.geometry import Box, CellGrid
from hirez_mosaic.settings.rules import Rules
from hirez_mosaic.stages import rules as rules_module
from hirez_mosaic.stages.ruled_search import Terms, improve_ruled
from hirez_mosaic.stages.rules import RuledMap
from hirez_mosaic.stages.together import REPEATS, energy, near_costs, repeat_prices


@pytest.fixture(autouse=True, scope="module")
def _small_sets_pay() -> Iterator[None]:
    """Repeats have a price in small sets as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hirez_mosaic.stages.together._FEW", 1)
        yield


def filled(
    folder: Path, grid: CellGrid, rules: Rules, templates: int, poses: int, seed: int, chunk: int = 100, k: int = 4
) -> RuledMap:
    """A map over random queries and keys, with few candidates, so that many cells run out of them."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(templates * poses, 3, generator=generator)
    asked = torch.rand(grid.rows, grid.columns, 3, generator=generator) ** 3  # much alike

    def score(query: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * query @ keys[block].T - keys[block].square().sum(1)

    found, values = best_k(asked.flatten(0, 1), score, templates * poses, min(k, templates * poses))
    candidates, scores = (array.unflatten(0, (grid.rows, grid.columns)).numpy() for array in (found, values))
    made = RuledMap(rules, grid, templates * poses, poses, 3)
    boxes = list(grid.chunks((chunk, chunk)))
    done = list(
        made.fill(
            candidates[..., 0],
            candidates,
            scores,
            boxes,
            lambda box: asked[box.slices].flatten(0, 1),
            score,
            folder,
            refined=False,
        )
    )
    assert sum(done) == grid.cells
    assert not list(folder.iterdir())
    return made


def searched(
    folder: Path, grid: CellGrid, rules: Rules, templates: int, poses: int, seed: int, gap: float = 0.1
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(the map before the search, and after it; E before and after), of random cells and templates, whose px are their
    queries and keys.
    """
    rng = np.random.default_rng(seed)
    px, shades = (rng.random((count, 8, 8, 3), np.float32) ** 2 for count in (grid.cells, templates * poses))
    keys, bias = 2 * shades.reshape(-1, 192), -np.square(shades).reshape(-1, 192).sum(1)
    asked = torch.from_numpy(px.reshape(-1, 192))

    def score(query: torch.Tensor, block: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.addmm(torch.from_numpy(bias[block]), query, torch.from_numpy(keys[block]).T)

    found, best = best_k(asked, score, templates * poses, min(6, templates * poses))
    candidates, scores = (of.unflatten(0, (grid.rows, grid.columns)).numpy() for of in (found, best))
    candidates = candidates.astype(np.uint32)
    made = RuledMap(rules, grid, templates * poses, poses, 192)
    cells = np.arange(grid.cells).reshape(grid.rows, grid.columns)
    queries = lambda box: asked[torch.from_numpy(cells[box.slices].copy()).flatten()]  # noqa: E731
    if rules.min_uses:
        assert (
            sum(made.place_required(candidates[..., 0], px.mean((1, 2)), shades[::poses].mean((1, 2))))
            == templates * rules.min_uses
        )
    for _ in made.fill(candidates[..., 0], candidates, scores, [grid.box], queries, score, folder, refined=True):
        pass
    prices = repeat_prices(near_costs(scores, 1.0), gap, templates)
    values, source, before = (
        far_values(shades),
        far_values(px).reshape(grid.rows, grid.columns, -1),
        made.index_map.copy(),
    )
    terms = Terms(values, FarView.of_weight(1.0), 1.0, gap, REPEATS, poses, (keys, bias))
    for _ in improve_ruled(
        made.index_map,
        made.counts,
        terms,
        grid,
        candidates,
        scores,
        lambda box: source[box.slices],
        lambda box: queries(box).numpy(),
    ):
        pass

    def total(index_map: np.ndarray) -> float:
        distances = (
            np.square(shades.reshape(-1, 192)[index_map.ravel()] - px.reshape(-1, 192)).sum(1).reshape(index_map.shape)
        )
        return energy(index_map, source, values, distances / 16, terms.far, prices, poses)

    return before, made.index_map, total(before), total(made.index_map)


def broken(rules: Rules, index_map: np.ndarray, poses: int, templates: int = 0) -> str:
    """What rule a map breaks; empty where none."""
    used = index_map.astype(int) // poses
    least = np.bincount(used.ravel(), minlength=templates).min()
    if least < rules.min_uses:
        return f"{least} uses"
    most = max(Counter(used.ravel().tolist()).values())
    if rules.max_uses is not None and most > rules.max_uses:
        return f"{most} uses"
    rows, columns = used.shape
    for row, column in np.ndindex(used.shape):
        around = Box(row, row + 1, column, column + 1).grown(rules.min_distance, Box(0, rows, 0, columns))
        if (used[around.slices] == used[row, column]).sum() > 1:
            return f"two of a kind around {row}, {column}"
    return ""


@settings(max_examples=200)
@given(
    rows=st.integers(1, 14),
    columns=st.integers(1, 14),
    max_uses=st.none() | st.integers(1, 9),
    distance=st.integers(0, 3),
    spare=st.integers(0, 5),
    poses=st.sampled_from([1, 2, 8]),
    window=st.integers(2, 9),
    exact=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_rule_is_ever_broken_and_no_cell_left_empty(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    max_uses: int | None,
    distance: int,
    spare: int,
    poses: int,
    window: int,
    exact: bool,
    seed: int,
) -> None:
    rules, grid = Rules(max_uses, distance), CellGrid(rows, columns, (8, 8), Fraction(1))
    templates = rules.needed(rows, columns) + spare
    folder = tmp_path_factory.mktemp("map")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules_module, "WINDOW", window)
        patch.setattr(rules_module, "_LATE", 7)
        if not exact:
            patch.setattr(rules_module, "_EXACT", 0)
        maps = [filled(folder, grid, rules, templates, poses, seed, chunk).index_map for chunk in (3, 5, 100)]
    assert broken(rules, maps[0], poses) == ""
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()
    with pytest.raises(TemplateError):
        rules.check(rows, columns, rules.needed(rows, columns) - 1)


@settings(max_examples=200)
@given(
    rows=st.integers(1, 14),
    columns=st.integers(1, 14),
    max_uses=st.none() | st.integers(1, 9),
    min_uses=st.integers(0, 3),
    distance=st.integers(0, 3),
    spare=st.integers(0, 5),
    poses=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_the_search_keeps_the_rules_and_lowers_what_it_minimises(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    max_uses: int | None,
    min_uses: int,
    distance: int,
    spare: int,
    poses: int,
    seed: int,
) -> None:
    grid = CellGrid(rows, columns, (8, 8), Fraction(1))
    least = min(min_uses, max_uses or min_uses)
    templates = Rules(max_uses, distance).needed(rows, columns) + spare
    while least and Rules(max_uses, distance, least).needed_cells(rows, columns, templates) > grid.cells:
        least -= 1
    rules = Rules(max_uses, distance, least)
    rules.check(rows, columns, templates)
    before, after, high, low = searched(tmp_path_factory.mktemp("map"), grid, rules, templates, poses, seed)
    assert broken(rules, before, poses, templates) == ""
    assert broken(rules, after, poses, templates) == ""
    assert low <= high + 1e-3 * abs(high)


def test_the_search_pays_under_rules(tmp_path: Path) -> None:
    """With as many templates as cells each has one place, and swaps are all there is."""
    grid = CellGrid(16, 16, (8, 8), Fraction(1))
    before, after, high, low = searched(tmp_path, grid, Rules(1, 0, 1), 256, 1, 1)
    assert sorted(after.ravel().tolist()) == sorted(before.ravel().tolist()) == list(range(256))
    assert low < 0.97 * high


def test_rules_that_do_not_bind_change_nothing(tmp_path: Path) -> None:
    grid = CellGrid(9, 11, (8, 8), Fraction(1))
    free = filled(tmp_path, grid, Rules(99), 12, 1, 0)
    generator = torch.Generator().manual_seed(0)
    keys, asked = torch.rand(12, 3, generator=generator), torch.rand(99, 3, generator=generator) ** 3
    assert (torch.cdist(asked, keys).argmin(1).numpy() == free.index_map.ravel()).all()


def test_a_small_map_gets_the_best_assignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = CellGrid(6, 7, (8, 8), Fraction(1))
    generator = torch.Generator().manual_seed(3)
    keys, asked = torch.rand(45, 3, generator=generator), torch.rand(42, 3, generator=generator) ** 3
    distance = torch.cdist(asked, keys).square().numpy()
    exact = filled(tmp_path, grid, Rules(1), 45, 1, 3)
    monkeypatch.setattr(rules_module, "_EXACT", 0)
    greedy = filled(tmp_path, grid, Rules(1), 45, 1, 3)
    cost = [distance[range(42), made.index_map.ravel()].sum() for made in (exact, greedy)]
    assert cost[0] < cost[1] < 2.5 * cost[0]


def test_too_few_templates_is_said_with_the_numbers() -> None:
    with pytest.raises(
        TemplateError,
        match=r"100 cells with each used once take 100 templates and there are 99, 1 too few; add templates",
    ):
        Rules(1).check(10, 10, 99)
    with pytest.raises(
        TemplateError,
        match=r"100 cells with each used 4 times at most and 1 cells between two uses take 33 .* 13 too few",
    ):
        Rules(4, 1).check(10, 10, 20)
    Rules(None, 1).check(1, 100, 3)  # on a single row three take turns
    with pytest.raises(TemplateError, match="1 too few"):
        Rules(None, 1).check(1, 100, 2)
    with pytest.raises(
        TemplateError,
        match=r"60 templates with each used 2 times at least take 120 cells and there are 100, 20 too few",
    ):
        Rules(None, 0, 2).check(10, 10, 60)
    with pytest.raises(
        TemplateError,
        match=r"40 templates .* 2 times at least and 2 cells between two uses take 104 cells .* 4 too few",
    ):
        Rules(None, 2, 2).check(10, 10, 40)
    Rules(None, 2, 1).check(10, 10, 100)


@pytest.mark.usefixtures("own_cache", "with_random_weights")
@pytest.mark.parametrize(
    "how",
    [
        {"no_repeat_neighbours": True, "max_uses": 5},
        {"unique": True, "mirror": True},
        {"min_distance": 2, "refine": 2},
        {"min_uses": 2, "max_uses": 3, "columns": 18},
        {"use_all": True, "choose": "alone", "columns": 18},
    ],
)
def test_a_render_keeps_the_rules_whatever_the_chunks_and_workers(
    tmp_path: Path, make_templates: Callable[[int], Path], how: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = save(tmp_path / "source.png", photo(70, 86)), make_templates(130)
    monkeypatch.setattr(rules_module, "WINDOW", 6)
    monkeypatch.setattr(rules_module, "_EXACT", 0)
    maps = []
    for number, (chunk, workers) in enumerate([(3, 1), (5, 2), (100, 2)]):
        monkeypatch.setattr("hirez_mosaic.engine.threads.cores", lambda workers=workers: workers)
        work = tmp_path / f"work{number}"
        result = render(
            source,
            folder,
            8,
            tmp_path / f"{number}.png",
            fit=0,
            chunk=chunk,
            workspace=work,
            precision="float32",
            device="cpu",
            **how,
        )
        maps.append(zarr.open_array(work / "ruled_map", mode="r")[:])
        assert result.rules_cost is not None
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()
    distance, least = (
        max(how.get("min_distance", 0), int("no_repeat_neighbours" in how)),
        how.get("min_uses", int("use_all" in how)),
    )
    rules = Rules(1 if "unique" in how else how.get("max_uses"), distance, least)
    assert broken(rules, maps[0], 2 if "mirror" in how else 1, 130) == ""


@pytest.mark.usefixtures("own_cache")
def test_wrong_rules_are_refused_before_the_work(tmp_path: Path, make_templates: Callable[[int], Path]) -> None:
    source, folder = save(tmp_path / "source.png", photo(64, 64)), make_templates(9)
    for how, error in [
        ({"unique": True}, "64 cells with each used once take 64 templates and there are 9, 55 too few"),
        ({"max_uses": 0}, "most uses of a template are 0"),
        ({"unique": True, "max_uses": 2}, "leave one of them out"),
        ({"min_distance": -1}, "least distance between two uses is -1"),
        ({"min_uses": -1}, "least uses of a template are -1"),
        ({"min_uses": 8}, "9 templates with each used 8 times at least take 72 cells and there are 64, 8 too few"),
        ({"use_all": True, "min_uses": 2}, "`use_all` wants one use"),
        ({"min_uses": 3, "max_uses": 2}, "used 3 times at least and 2 at most"),
        ({"prefer": tmp_path / "none.txt"}, "file of preferred templates .* is not there"),
    ]:
        with pytest.raises((TemplateError, SettingError), match=error):
            render(source, folder, 8, tmp_path / "out.png", **how)
    assert not (tmp_path / "out.png").exists()


def test_scratch_files_have_all_their_room_at_once(tmp_path: Path) -> None:
    made = rules_module._on_disk(tmp_path / "a", np.uint32, (1000, 1000, 3))
    assert (tmp_path / "a").stat().st_blocks * 512 >= 12_000_000
    made[:] = 7
    made.flush()
    assert (np.fromfile(tmp_path / "a", np.uint32) == 7).all()


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_preferred_templates_are_taken_where_they_are_nearly_as_good(
    tmp_path: Path, make_templates: Callable[[int], Path]
) -> None:
    source, folder = save(tmp_path / "source.png", photo(200, 200)), make_templates(60)
    wanted = tmp_path / "wanted.txt"
    uses = []
    for names in ("", "007.png\n033.png\n"):
        wanted.write_text(f"# of the family\n{names}")
        work = tmp_path / f"work{len(uses)}"
        render(source, folder, 8, tmp_path / "out.png", workspace=work, device="cpu", overwrite=True, prefer=wanted)
        used = np.asarray(zarr.open_array(work / "index_map", mode="r")[:])
        uses.append(int(np.isin(used, [7, 33]).sum()))
    assert uses[1] > 1.5 * uses[0]
    assert uses[1] < used.size
    wanted.write_text("gone.png")
    with pytest.raises(SettingError, match=r"1 preferred templates are not in .*: gone\.png; name paths below it"):
        render(source, folder, 8, tmp_path / "out.png", device="cpu", overwrite=True, prefer=wanted)
