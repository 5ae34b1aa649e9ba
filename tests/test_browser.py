"""Pages as a person meets them: in Debian's Chromium, by double click and from a server, with pointer, finger, keys and
voice.
"""

import csv
import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from conftest import photo, save

from hirez_mosaic.jobs.page import make_pages
from hirez_mosaic.jobs.view import served
from hirez_mosaic.outputs.pages import Contents, write_page
from hirez_mosaic.stages.assemble import Mosaic
from hirez_mosaic.templates import TemplateSet

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

ROWS, COLUMNS, TILE = 70, 90, 16
DESK = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "reduced_motion": "reduce",
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[dict[str, str]]]]:
    """(page, rows of its tile map) of 40 templates, the last of which stands in one place alone: row 44, column 71."""
    here = tmp_path_factory.mktemp("wall")
    names = [f"summer/IMG_{number:03d}.jpg" for number in range(39)] + ["family/Aunt Mary <b>.jpg"]
    for number, name in enumerate(names):
        (here / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        save(here / "album" / name, photo(48, 48, seed=number))
    numbers = np.random.default_rng(5).integers(0, 39, (ROWS, COLUMNS))
    numbers[44, 71] = 39
    rows = [
        {"row": str(row), "column": str(column), "template": names[number], "colour": "#3050a0"}
        for (row, column), number in np.ndenumerate(numbers)
    ]
    with (here / "wall.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    source = here / "source.png"
    pyvips.Image.black(900, 700, bands=3).linear(1, [220, 30, 30]).cast("uchar").write_to_file(str(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIREZ_MOSAIC_CACHE", str(here / "cache"))
        make_pages([here / "wall.csv"], here / "page", here / "album", TILE, source=source)
        yield here / "page", rows


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is looked at. asked: addresses it loaded. wrong: errors it met."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(300_000)
        self.page, self.asked, self.wrong = self.context.new_page(), list[str](), list[str]()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)
        self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        """Return when nothing moves and every tile in view is drawn."""
        self.page.wait_for_function(
            "() => { const viewer = window.hirezMosaicViewer; const view = viewer?.viewport; const item = "
            "viewer?.world.getItemAt(0);"
            " return item && item.getFullyLoaded() && !viewer.isAnimating?.()"
            " && Math.abs(view.getZoom(true) / view.getZoom() - 1) < 1e-3 && "
            "view.getCenter(true).distanceTo(view.getCenter()) < 1e-4; }"
        )

    def point(self, column: int, row: int) -> tuple[float, float]:
        """Px of the window at which the middle of a cell lies."""
        x, y = self.page.evaluate(
            "([x, y]) => { const at = hirezMosaicViewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x, y), true);"
            " return [at.x, at.y]; }",
            [(column + 0.5) / COLUMNS, (row + 0.5) / COLUMNS],
        )
        return x, y

    def card(self, place: str) -> tuple[str, str]:
        """(name, uses) of the template, once the card tells of a place."""
        name, uses = self.page.evaluate(
            "async place => { const find = id => document.getElementById(id);"
            " for (let tries = 0; tries < 2000 && find('place').textContent !== place; tries++)"
            " await new Promise(then => setTimeout(then, 5));"
            " return find('place').textContent === place ? [find('name').title, find('uses').textContent] : [null, "
            "null]; }",
            place,
        )
        return name, uses

    def shows(self, place: str) -> str:
        """The name of the template, once the card tells of a place."""
        return self.card(place)[0]

    def zoom(self) -> float:
        return float(self.page.evaluate("() => hirezMosaicViewer.viewport.getZoom()"))

    def middle(self) -> tuple[int, int]:
        """(column, row) in the middle of the view."""
        x, y = self.page.evaluate("() => { const at = hirezMosaicViewer.viewport.getCenter(); return [at.x, at.y]; }")
        return int(x * COLUMNS), int(y * COLUMNS)

    def colour(self, column: int, row: int) -> np.ndarray:
        """What is seen in the middle of a cell, mean (3,) of 4 x 4 px."""
        x, y = self.point(column, row)
        shot = self.page.screenshot(clip={"x": x - 2, "y": y - 2, "width": 4, "height": 4})
        return pyvips.Image.new_from_buffer(shot, "").numpy()[:, :, :3].mean((0, 1))


@pytest.fixture
def visit(browser: Any, wall: tuple[Path, list[dict[str, str]]]) -> Iterator[Any]:
    """Opens the page, by double click unless another address is given; nothing may go wrong meanwhile."""
    visits: list[Visit] = []

    def go(hash: str = "", address: str | None = None, **settings: Any) -> Visit:  # noqa: A002
        visits.append(Visit(browser, (address or (wall[0] / "index.html").as_uri()) + hash, **(settings or DESK)))
        return visits[-1]

    yield go
    for one in visits:
        wrong = list(one.wrong)  # before closing, which breaks off what is still being loaded
        one.context.close()
        assert wrong == []


def place_of(row: dict[str, str]) -> str:
    return f"Column {row['column']}, row {row['row']}"


def test_the_pointer_over_a_cell_names_its_template(visit: Any, wall: tuple[Path, list[dict[str, str]]]) -> None:
    looking, rows = visit(), wall[1]
    hidden = looking.page.evaluate(
        "() => [...document.querySelectorAll('.panel')].filter(one => one.offsetParent || "
        "getComputedStyle(one).position === 'fixed')"
        ".filter(one => !one.hidden && one.open !== false).map(one => one.getBoundingClientRect().toJSON())"
    )
    uses = {name: sum(row["template"] == name for row in rows) for name in {row["template"] for row in rows}}
    looked_at = 0
    for number in np.random.default_rng(0).permutation(len(rows)):
        row = rows[number]
        x, y = looking.point(int(row["column"]), int(row["row"]))
        covered = any(box["left"] <= x <= box["right"] and box["top"] <= y <= box["bottom"] for box in hidden)
        if (
            covered or not (0 < x < 1280 and 0 < y < 800) or (x < 480 and y > 560)
        ):  # below the card, which appears there
            continue
        looking.page.mouse.move(x, y)
        name, told = looking.card(place_of(row))
        assert name == row["template"]
        assert told in (f"Stands in {uses[name]} places", "Stands here alone")
        looked_at += 1
        if looked_at == 200:
            break
    assert looked_at == 200


def test_nothing_is_loaded_that_is_not_looked_at(visit: Any, wall: tuple[Path, list[dict[str, str]]]) -> None:
    looking = visit()
    below = [address.split("/page/")[1] for address in looking.asked if "/page/" in address]
    assert not [
        name for name in below if name.split("/")[0] in ("index", "uses", "names", "search", "templates", "source")
    ]
    tiles = [name for name in below if name.startswith("tiles/")]
    assert tiles[0] == "tiles/360x280/0/0.jpg"  # the smallest level: all of the mosaic
    first = below[: below.index(tiles[0]) + 1]
    assert sum((wall[0] / name.split("#")[0]).stat().st_size for name in first) < 1_000_000
    assert all(address.startswith(("file:", "data:")) for address in looking.asked)
    looking.page.mouse.move(*looking.point(10, 10))
    looking.shows("Column 10, row 10")

    def asked_since() -> list[str]:
        return [address.split("/page/")[1] for address in looking.asked[len(below) :] if "/page/" in address]

    while len(asked_since()) < 4:
        looking.page.wait_for_timeout(50)
    looking.page.wait_for_timeout(300)
    more = asked_since()
    assert {name.split("/")[0] for name in more} == {"index", "names", "uses", "templates"}
    assert len(more) == 4


def test_a_click_keeps_a_cell_and_lights_up_the_others_of_its_template(
    visit: Any, wall: tuple[Path, list[dict[str, str]]]
) -> None:
    looking, rows = visit("#cell=45,35&zoom=5"), wall[1]
    name = looking.shows("Column 45, row 35")
    assert name == rows[35 * COLUMNS + 45]["template"]
    others = [(int(row["column"]), int(row["row"])) for row in rows if row["template"] == name]
    bright = looking.page.evaluate(
        "() => { const lights = document.getElementById('lights'); const pen = lights.getContext('2d');"
        " return [hirezMosaicViewer.viewport.getZoom(), lights.width]; }"
    )
    assert bright[1] > 0
    alphas = looking.page.evaluate(
        "places => { const pen = document.getElementById('lights').getContext('2d');"
        " return places.map(([x, y]) => pen.getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data[3]); }",
        [looking.point(column, row) for column in range(40, 51) for row in range(31, 40)],
    )
    lit = {
        place
        for place, alpha in zip(((c, r) for c in range(40, 51) for r in range(31, 40)), alphas, strict=True)
        if alpha == 0
    }
    assert lit == {(column, row) for column, row in others if 40 <= column <= 50 and 31 <= row <= 39}
    looking.page.mouse.move(*looking.point(47, 37))  # the pointer changes nothing now
    looking.page.wait_for_timeout(200)
    assert looking.shows("Column 45, row 35") == name
    seen = {(45, 35)}
    for _ in range(3):
        looking.page.click("#next")
        looking.page.wait_for_function("() => document.getElementById('card').classList.contains('kept')")
        looking.settle()
        column, row = (int(word) for word in looking.page.inner_text("#place").replace("Column ", "").split(", row "))
        assert rows[row * COLUMNS + column]["template"] == name
        seen.add((column, row))
    assert len(seen) == 4
    looking.page.click("#close")
    assert looking.page.is_hidden("#card")


def test_search_finds_a_template_by_a_part_of_its_name(visit: Any) -> None:
    looking = visit()
    looking.page.fill("#words", "MARY aunt")
    looking.page.wait_for_selector("#found li[data-number]")
    assert looking.page.locator("#found li").count() == 1
    assert looking.page.inner_text("#found .of").endswith("Aunt Mary <b>.jpg")
    looking.page.keyboard.press("ArrowDown")
    assert looking.page.get_attribute("#words", "aria-activedescendant") == "found-0"
    looking.page.keyboard.press("Enter")
    assert looking.shows("Column 71, row 44") == "family/Aunt Mary <b>.jpg"
    assert looking.page.inner_text("#uses") == "Stands here alone"
    looking.settle()
    assert looking.middle() == (71, 44)
    looking.page.fill("#words", "nobody at all")
    looking.page.wait_for_selector("#found li.none")
    looking.page.fill("#words", "g_")  # too short for threes of letters
    looking.page.wait_for_selector("#found li[data-number]")
    assert looking.page.locator("#found li").count() == 39


def test_the_slider_fades_to_the_source(visit: Any) -> None:
    looking = visit()
    before = looking.colour(50, 40)
    assert not [address for address in looking.asked if "/source/" in address]
    looking.page.fill("#source", "100")
    looking.page.wait_for_function(
        "() => hirezMosaicViewer.world.getItemCount() === 2 && hirezMosaicViewer.world.getItemAt(1).getFullyLoaded()"
    )
    looking.page.wait_for_timeout(300)
    after = looking.colour(50, 40)
    assert np.abs(after - [220, 30, 30]).max() < 12
    looking.page.fill("#source", "50")
    looking.page.wait_for_timeout(300)
    assert np.abs(looking.colour(50, 40) - (before + after) / 2).max() < 12


def test_a_link_holds_place_and_zoom(visit: Any) -> None:
    first = visit("#cell=20,44")
    assert first.middle() == (20, 44)
    assert first.zoom() > 3  # near enough to see the cell
    for _ in range(2):
        first.page.click("#closer")
    first.settle()
    first.page.wait_for_function("() => location.hash.includes('zoom')")
    first.page.wait_for_timeout(300)
    link = first.page.evaluate("() => location.hash")
    again = visit(link)
    assert again.zoom() == pytest.approx(first.zoom(), rel=1e-3)
    assert again.shows("Column 20, row 44")
    again.page.keyboard.press("Escape")
    free = again.page.evaluate("() => location.hash")
    third = visit(free)
    assert third.middle() == (20, 44)
    assert third.page.is_hidden("#card")
    visit("#cell=9999,9999&zoom=999999")
    assert visit("#cell=-1,%").zoom() < 1.01


def test_keys_do_all_that_the_pointer_does(visit: Any, wall: tuple[Path, list[dict[str, str]]]) -> None:
    looking, rows = visit("#cell=20.5,44.5&zoom=4"), wall[1]
    looking.page.focus("#stage")
    press = looking.page.keyboard.press
    press("ArrowRight")
    looking.shows("Column 20, row 44")
    press("ArrowRight")
    looking.shows("Column 21, row 44")
    press("Shift+ArrowDown")
    assert looking.shows("Column 21, row 54") == rows[54 * COLUMNS + 21]["template"]
    looking.page.wait_for_function(
        "name => document.getElementById('told').textContent.startsWith(name)", arg=looking.shows("Column 21, row 54")
    )
    press("Enter")
    looking.page.wait_for_selector("#card.kept")
    press("n")
    looking.page.wait_for_function(
        "() => !document.getElementById('place').textContent.startsWith('Column 21, row 54')"
    )
    press("p")
    looking.shows("Column 21, row 54")
    press("Escape")
    assert looking.page.is_hidden("#card")
    near = looking.zoom()
    press("+")
    assert looking.zoom() > near
    press("0")
    looking.settle()
    assert looking.zoom() < 1.01
    press("/")
    assert looking.page.evaluate("() => document.activeElement.id") == "words"
    press("Escape")
    press("?")
    assert looking.page.is_visible("#about")
    press("Escape")
    assert not looking.page.is_visible("#about")
    order = []
    for _ in range(12):
        press("Tab")
        order.append(looking.page.evaluate("() => document.activeElement.id"))
    assert {"words", "closer", "farther", "whole", "tell", "source", "stage"} <= set(order)


def test_on_a_phone_a_tap_shows_a_cell_and_nothing_sticks_out(
    visit: Any, wall: tuple[Path, list[dict[str, str]]]
) -> None:
    looking, rows = visit(**PHONE), wall[1]
    looking.page.touchscreen.tap(*looking.point(40, 30))
    assert looking.shows("Column 40, row 30") == rows[30 * COLUMNS + 40]["template"]
    boxes = looking.page.evaluate(
        "() => [...document.querySelectorAll('#search, #tools, #fade, #card, #card button, #template')]"
        ".map(one => one.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 9
    for box in boxes:
        assert box["left"] >= 0
        assert box["right"] <= 390
        assert 0 <= box["top"] < box["bottom"] <= 844
    assert looking.page.evaluate("() => document.documentElement.scrollWidth") == 390
    sizes = looking.page.evaluate("() => [...document.querySelectorAll('#tools button, #card button')].filter(one => "
    "one.offsetParent)"
                                  ".map(one => Math.min(one.offsetWidth, one.offsetHeight))")  # fmt: skip
    assert min(sizes) >= 40  # wide enough for a finger
    looking.page.touchscreen.tap(195, 780)  # beside the mosaic
    looking.page.wait_for_timeout(100)


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["light desk", "dark phone"])
def test_axe_finds_nothing_serious(visit: Any, scheme: str, size: dict[str, Any]) -> None:
    looking = visit("#cell=20,44", **size, color_scheme=scheme)
    looking.shows("Column 20, row 44")
    looking.page.fill("#words", "img_00")
    looking.page.wait_for_selector("#found li[data-number]")

    def check() -> None:
        found = axe.Axe().run(looking.page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
        looking.wrong.clear()  # axe asks for the style sheet once more, which a page opened by double click may not

    check()
    looking.page.click("#tell")
    looking.page.wait_for_timeout(100)
    check()


def test_a_gallery_leads_to_its_pages(browser: Any, wall: tuple[Path, list[dict[str, str]]], tmp_path: Path) -> None:
    here = wall[0].parent
    shutil.copy(here / "wall.csv", tmp_path / "the other.csv")
    make_pages([here / "wall.csv", tmp_path / "the other.csv"], tmp_path / "pages", here / "album", TILE)
    context = browser.new_context(**DESK)
    page = context.new_page()
    page.goto((tmp_path / "pages" / "index.html").as_uri())
    page.wait_for_function(
        "() => document.images.length === 2 && [...document.images].every(image => image.naturalWidth > 0)"
    )
    assert [one for one in axe.Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")] == []
    page.click("text=the other")
    page.wait_for_function("() => window.hirezMosaicViewer?.world.getItemCount() === 1")
    assert page.title() == "the other"
    context.close()


def test_a_page_works_from_a_plain_web_host(visit: Any, wall: tuple[Path, list[dict[str, str]]]) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(wall[0]))
    handler.log_message = lambda *told: None  # type: ignore[attr-defined]
    host = type("Host", (http.server.ThreadingHTTPServer,), {"request_queue_size": 128})
    with host(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        looking = visit(address=f"http://127.0.0.1:{server.server_port}/", **DESK)
        looking.page.mouse.move(*looking.point(71, 44))
        assert looking.shows("Column 71, row 44") == "family/Aunt Mary <b>.jpg"
        assert {address.split("/")[2] for address in looking.asked if address[:5] != "data:"} == {
            f"127.0.0.1:{server.server_port}"
        }
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["page", "png", "dzi"])
def test_view_shows_it(visit: Any, wall: tuple[Path, list[dict[str, str]]], tmp_path: Path, kind: str) -> None:
    picture = pyvips.Image.black(1500, 900, bands=3).linear(1, [20, 200, 60]).cast("uchar")
    if kind == "dzi":
        picture.dzsave(str(tmp_path / "wall"))
    else:
        picture.write_to_file(str(tmp_path / "wall.png"))
    with served(wall[0] if kind == "page" else tmp_path / f"wall.{kind}") as found:
        thread = threading.Thread(target=found.run)
        thread.start()
        looking = visit(address=found.address, **DESK)
        if kind == "page":
            looking.page.mouse.move(*looking.point(71, 44))
            assert looking.shows("Column 71, row 44") == "family/Aunt Mary <b>.jpg"
        else:
            shot = pyvips.Image.new_from_buffer(looking.page.screenshot(), "").numpy()
            assert np.abs(shot[400, 640, :3].astype(int) - [20, 200, 60]).max() < 8
            assert looking.page.is_hidden("#search")
        found.server.shutdown()
        thread.join()


def test_a_template_in_very_many_places_lights_up_in_a_share_of_them(browser: Any, tmp_path: Path) -> None:
    """And where templates are anonymous, nothing can be searched for."""
    templates = TemplateSet(tmp_path, ("a.png",), np.full((1, 2, 2, 3), 90, np.uint8), "0")
    mosaic = Mosaic(np.zeros((600, 700), np.uint32), templates)
    write_page(Contents(mosaic, "flat", thumbnails=2, anonymous=True), tmp_path / "page", lambda cells: None, 2)
    looking = Visit(browser, (tmp_path / "page" / "index.html").as_uri(), **DESK)
    looking.page.mouse.click(640, 400)
    looking.page.wait_for_selector("#card.kept")
    looking.page.wait_for_function("() => document.getElementById('uses').textContent.includes('light up')")
    assert looking.page.inner_text("#uses") == "Stands in 420,000 places, of which 73,728 light up"
    assert looking.page.inner_text("#name") == "Picture 1"
    assert looking.page.is_hidden("#search")
    assert len([address for address in looking.asked if "/uses/" in address]) <= 9
    assert looking.wrong == []
    looking.context.close()
