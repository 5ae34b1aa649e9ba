"""What a stage knows of itself: every setting that decides a result is in a stage's identity, and no other is."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photo, save

from hirez_mosaic.engine.graph import StageRun
from hirez_mosaic.engine.store import differences
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.prepare import _identity, make_tools
from hirez_mosaic.jobs.render import RenderResult, render
from hirez_mosaic.jobs.stages import STAGES, stale_stages
from hirez_mosaic.pixels.geometry import CellGrid
from hirez_mosaic.settings.choosing import Choosing
from hirez_mosaic.settings.running import Running
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.settings.writing import Writing
from hirez_mosaic.sources import open_source
from hirez_mosaic.stages.stage import Setup, Stage

pytestmark = pytest.mark.usefixtures("own_cache", "with_random_weights")

Identified = Callable[..., dict[str, Any]]


@pytest.fixture
def spec(tmp_path: Path, make_templates: Callable[[int], Path]) -> RenderSpec:
    """A render with a fit and refining, of templates two of which are the same."""
    templates = make_templates(20)
    first = sorted(templates.iterdir())[0]
    (templates / "twin.png").write_bytes(first.read_bytes())
    save(templates / "wide.png", photo(60, 20, seed=3))
    save(tmp_path / "other.png", photo(64, 64, seed=5))
    (tmp_path / "names.txt").write_text(f"{first.name}\n")
    return RenderSpec(
        source=save(tmp_path / "a.png", photo(64, 64)),
        templates=templates,
        tile=(8, 8),
        output=tmp_path / "m.tif",
        fit=1,
        refine=1,
        device="cpu",
        precision="float32",
    )


@pytest.fixture
def identified(spec: RenderSpec) -> Iterator[Identified]:
    """The identity of a render with some settings changed."""
    with ExitStack() as cleanup:
        source = open_source(spec.source, spec.background, spec.max_source_px)
        cleanup.callback(source.close)
        plain = make_tools(spec, Listener(), cleanup)

        def identity(**changed: Any) -> dict[str, Any]:
            made = replace(spec, **changed)
            chosen = any(field.name in changed for field in fields(Choosing))
            tools = make_tools(made, Listener(), cleanup) if chosen else plain
            grid = CellGrid.over(source.size, made.tile, made.scale, made.columns)
            return _identity(Setup(made, source, grid, tools))

        yield identity


def other_choices(spec: RenderSpec) -> dict[str, tuple[dict[str, Any], Any]]:
    """For every setting of `Choosing`: what else to change before, and another value."""
    folder = spec.source.parent
    fewer = folder / "fewer"
    if not fewer.exists():
        fewer.mkdir()
        for number in range(3):
            save(fewer / f"{number}.png", photo(8, 8, seed=number))
    return {
        "source": ({}, folder / "other.png"),
        "templates": ({}, fewer),
        "tile": ({}, (16, 16)),
        "scale": ({}, Fraction(2)),
        "columns": ({}, 5),
        "decoder": ({"fit": 0, "choose": "together"}, "l2"),
        "choose": ({}, "alone"),
        "effort": ({"refine": None}, "better"),
        "fit": ({}, 2),
        "refine": ({}, 2),
        "far_weight": ({}, 0.7),
        "precision": ({}, "bfloat16"),
        "background": ({}, (0, 0, 0)),
        "crop": ({}, "attention"),
        "max_uses": ({}, 60),
        "min_distance": ({}, 1),
        "unique": ({"max_uses": None, "columns": 2}, True),
        "min_uses": ({}, 1),
        "use_all": ({}, True),
        "prefer": ({}, folder / "names.txt"),
        "no_repeat_neighbours": ({}, True),
        "mirror": ({}, True),
        "rotate": ({}, True),
        "ban": ({}, folder / "names.txt"),
        "dedupe": ({}, 0.0),
        "source_page": ({}, 2),
        "plane": ({}, 2),
        "channel": ({}, 2),
        "stretch": ({}, True),
        "exclude": ({}, ("twin.png",)),
    }


def test_every_setting_that_decides_the_result_is_in_the_identity_of_a_stage(
    spec: RenderSpec, identified: Identified
) -> None:
    others = other_choices(spec)
    assert {field.name for field in fields(Choosing)} == {*others, "device"}, "say what another value of it is"
    for name, (before, value) in others.items():
        assert differences(identified(**before), identified(**{**before, name: value})), name


def test_the_kind_of_device_is_in_the_identity(spec: RenderSpec) -> None:
    with ExitStack() as cleanup:
        tools = make_tools(spec, Listener(), cleanup)
        other = replace(tools, device=torch.device("cuda"))
        changed = {stage.name for stage in STAGES if stage.identity(spec, tools) != stage.identity(spec, other)}
    assert changed == {"encode", "fit", "decode", "refine"}


def test_how_it_is_written_and_run_is_in_none(spec: RenderSpec, identified: Identified, tmp_path: Path) -> None:
    others: dict[str, Any] = {
        "output": tmp_path / "n.png",
        "overwrite": True,
        "compression": "lzw",
        "quality": 50,
        "dpi": 72.0,
        "cog": True,
        "iiif": "http://here",
        "no_preview": True,
        "tint": 0.5,
        "preview": tmp_path / "p.png",
        "tile_map": tmp_path / "m.csv",
        "page": tmp_path / "page",
        "anonymous": True,
        "thumbnails": 20,
        "chunk": 2,
        "memory": 1 << 31,
        "workspace": str(tmp_path / "work"),
        "restart": True,
        "scheduler": "tcp://nowhere:1",
        "jobs": 1,
        "max_source_px": 10**6,
        "strict": True,
        "weights": tmp_path / "weights",
    }
    assert {field.name for part in (Writing, Running) for field in fields(part)} == set(others)
    plain = identified()
    for name, value in others.items():
        needed = {"output": tmp_path / "m.iiif"} if name == "iiif" else {}
        assert not differences(plain, identified(**{**needed, name: value})), name


def test_every_setting_belongs_to_one_part() -> None:
    parts = [{field.name for field in fields(part)} for part in (Choosing, Writing, Running)]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert {field.name for field in fields(RenderSpec)} == set().union(*parts)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_reads_what_those_before_leave(stage: Stage) -> None:
    before = [name for other in STAGES[: STAGES.index(stage)] for name in other.leaves]
    assert set(stage.reads) <= set(before)
    assert not set(stage.leaves) & set(before), "two stages leave the same"


@pytest.mark.parametrize(
    ("changed", "made_anew"),
    [
        ({"columns": 20}, "ingest encode decode select"),
        ({"background": "black"}, "all"),
        ({"choose": "alone"}, "decode select"),
        ({"max_uses": 200}, "rules"),
        ({"refine": 1}, "refine select"),
        ({"quality": 50}, ""),
    ],
    ids=str,
)
def test_a_changed_mind_keeps_every_stage_whose_inputs_did_not_change(
    changed: dict[str, Any],
    made_anew: str,
    tmp_path: Path,
    make_templates: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A render that was broken off while it was assembled, and then the same with one option changed."""
    source, templates = save(tmp_path / "s.png", photo(120, 120)), make_templates(30)
    lines: list[str] = []
    ran: list[str] = []

    class Hears(Listener):
        def note(self, line: str) -> None:
            if "n earlier start" in line:
                lines.append(line)

    def make(name: str, **settings: Any) -> RenderResult:
        plain = {"decoder": "paper", "device": "cpu", "precision": "float32", "chunk": 8, "listener": Hears()}
        return render(source, templates, 8, tmp_path / name, **{**plain, **settings})

    whole = make("whole.tif", **changed).output.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr("hirez_mosaic.jobs.render.write_mosaic", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make("m.tif", max_uses=400)  # rules: nothing is assembled before all is chosen
    begin = StageRun.on

    def counted(self: StageRun, device: torch.device) -> Any:
        run = begin(self, device)
        unfinished = [box for box in self.grid.chunks(self.marks.chunk) if not self.marks.has(box)]
        if unfinished:
            ran.append(self.name)
        return run

    monkeypatch.setattr(StageRun, "on", counted)
    again = {"max_uses": 400, **changed}
    lines.clear()
    result = make("m.tif", **again).output.read_bytes()
    if "max_uses" in changed:
        assert result == whole
    expected = {"all": "ingest encode decode select", "rules": ""}.get(made_anew, made_anew)
    assert ran == expected.split()
    assert len(lines) == (made_anew != "")
    if made_anew == "all":
        assert "is discarded: background differ" in lines[0]
    elif made_anew:
        assert ("ingest, encode" in lines[0]) == ("ingest" not in made_anew)


def test_what_reads_what_is_stale_is_stale() -> None:
    assert list(stale_stages({"fit"})) == ["fit", "decode", "refine", "select", "rules"]
    assert list(stale_stages({"rules"})) == ["rules"]
    assert list(stale_stages(set())) == []
