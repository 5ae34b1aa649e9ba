"""The stages of a render, in their order. Plan, disk, identity and what is kept of earlier starts follow from them."""

from collections.abc import Collection

from hirez_mosaic.engine.store import Identity
from hirez_mosaic.outputs.stages import ASSEMBLE, PAGE, PREVIEW, TILE_MAP
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages import refine, rules, together
from hirez_mosaic.stages.decode import DECODE
from hirez_mosaic.stages.encode import ENCODE
from hirez_mosaic.stages.fit import FIT
from hirez_mosaic.stages.ingest import INGEST, UNPACK
from hirez_mosaic.stages.refine import REFINE
from hirez_mosaic.stages.rules import RULES
from hirez_mosaic.stages.select import SELECT
from hirez_mosaic.stages.stage import Setup, Stage, Tools
from hirez_mosaic.stages.start import START
from hirez_mosaic.templates import TemplateSet

STAGES: tuple[Stage, ...] = (
    UNPACK,
    INGEST,
    ENCODE,
    FIT,
    START,
    DECODE,
    REFINE,
    SELECT,
    RULES,
    ASSEMBLE,
    TILE_MAP,
    PREVIEW,
    PAGE,
)


def stages_of(setup: Setup) -> tuple[Stage, ...]:
    """The stages that a render has."""
    return tuple(stage for stage in STAGES if stage.runs(setup))


def identity_of(spec: RenderSpec, tools: Tools) -> dict[str, Identity]:
    """What decides the result of each stage but the picture, by the stage's name."""
    return {stage.name: identity for stage in STAGES if (identity := stage.identity(spec, tools))}


def stale_stages(different: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The stages whose results are of no use after some stages changed, with the names of what they left, in order.

    These are the changed stages themselves, and all stages that read what such stages leave.

    different: names of the stages that something else decides now.
    """
    stale: dict[str, tuple[str, ...]] = {}
    gone: set[str] = set()
    for stage in STAGES:
        if stage.leaves and (stage.name in different or gone & set(stage.reads)):
            stale[stage.name] = stage.leaves
            gone |= set(stage.leaves)
    return stale


def run_at_once(name: str) -> set[str]:
    """The names of the stages that run chunk by chunk at the same time as this one, itself included."""
    pairs = {stage.name: stage.follows for stage in STAGES}
    return {name, *filter(None, [pairs.get(name)]), *(other for other, before in pairs.items() if before == name)}


def candidates_kept(spec: RenderSpec, templates: TemplateSet) -> int:
    """How many choices a cell decode keeps: as many as any later stage chooses from."""
    ruled = rules.KEPT if spec.rules else 1
    mapped = 1 if spec.tile_map is None else 2 * (1 + spec.mirror) * (1 + 3 * spec.rotate)  # with a runner-up
    poses = 2 if len(templates.poses) > 1 else 1  # several poses of one template may be among the best
    near = together.KEPT * poses if spec.together else 1
    return min(len(templates), max(refine.KEPT if spec.refine_steps else 1, ruled, mapped, near))
