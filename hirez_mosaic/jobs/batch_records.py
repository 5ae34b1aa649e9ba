"""What the journal of a batch knows of its pictures: what is finished, what may be replaced, what became of each."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from hirez_mosaic.jobs.batch_result import Outcome
from hirez_mosaic.jobs.journal import FAILED, MADE, STARTED, UNCHANGED, Journal, Record, digest, state
from hirez_mosaic.jobs.preview import ENDING as PREVIEW
from hirez_mosaic.jobs.preview import default_preview
from hirez_mosaic.jobs.render import RenderResult
from hirez_mosaic.jobs.stages import identity_of
from hirez_mosaic.outputs.appearing import check_output
from hirez_mosaic.settings.formats import parts_of
from hirez_mosaic.settings.spec import RenderSpec
from hirez_mosaic.stages.stage import Tools


class BatchRecords:
    """The records of the pictures of a batch, by their names.

    specs: by name. output: the folder of mosaics.
    """

    def __init__(self, specs: Mapping[str, RenderSpec], tools: Tools, output: Path, journal: Journal) -> None:
        self._specs, self._output, self._journal = specs, output, journal
        self._settings = _settings_digest(next(iter(specs.values())), tools)
        self._contents: dict[str, str | None] = {}

    def unchanged(self, name: str) -> Outcome | None:
        """The outcome of an earlier start that still holds; None where the mosaic must be made."""
        spec, last = self._specs[name], self._journal.last(name)
        if spec.overwrite or last is None or last["status"] != MADE or last["settings"] != self._settings:
            return None
        files = parts_of(spec.output)
        if last["content"] != self._content(name) or not all(path.exists() for path in spec.outputs):
            return None
        if state(*files) != last["state"] and digest("sha256", *files) != last["sha256"]:
            return None
        return replace(_recorded_outcome(last), status=UNCHANGED)

    def writable(self, name: str) -> RenderSpec:
        """The spec of a picture, which may replace what a batch made. Raises OutputError where a file is another's."""
        spec = self._specs[name]
        spec.output.parent.mkdir(parents=True, exist_ok=True)
        for file in self._files(name):
            check_output(self._output / file, spec.overwrite or self._journal.owns(file))
        preview = default_preview(spec.output)
        is_others = preview.exists() and not (spec.overwrite or self._journal.owns(self._relative(preview)))
        return replace(spec, overwrite=True, no_preview=spec.no_preview or (is_others and spec.preview is None))

    def started(self, name: str) -> None:
        """Record that a picture is being worked on, so that its files belong to the batch. Raises OSError."""
        self._journal.append({**self._record(name), "status": STARTED})

    def made(self, name: str, result: RenderResult, seconds: float) -> Outcome:
        """Record that a mosaic is there. seconds: wall time that it took. Raises OSError."""
        spec, record = self._specs[name], self._record(name)
        outcome = _made_outcome(name, record["output"], result, seconds)
        preview = [] if result.preview is None else [self._relative(result.preview)]
        files = list(dict.fromkeys([*record["files"], *preview]))
        self._journal.append({**asdict(outcome), **record, "files": files, "state": state(*parts_of(spec.output))})
        return outcome

    def failed(self, name: str, reason: str) -> Outcome:
        """Record that a picture failed, if the disk has room for that; what is not recorded is tried again anyway."""
        outcome = Outcome(name, FAILED, self._relative(self._specs[name].output), reason)
        gone = [file for file in self._files(name) if not (self._output / file).exists()]
        with suppress(OSError):
            self._journal.append({**asdict(outcome), "gone": gone})
        return outcome

    def _record(self, name: str) -> Record:
        """What every record of a picture holds."""
        return {
            "source": name,
            "output": self._relative(self._specs[name].output),
            "content": self._content(name),
            "settings": self._settings,
            "files": self._files(name),
        }

    def _content(self, name: str) -> str | None:
        """The digest of a picture's content; None where it cannot be read."""
        if name not in self._contents:
            try:
                self._contents[name] = digest("blake2b", self._specs[name].source)
            except OSError:
                self._contents[name] = None
        return self._contents[name]

    def _files(self, name: str) -> list[str]:
        """All that the render of a picture leaves, relative to the output folder."""
        return [self._relative(path) for path in self._specs[name].outputs]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._output).as_posix()


def _settings_digest(spec: RenderSpec, tools: Tools) -> str:
    """The digest of all that the mosaics of a batch depend on but their pictures. spec: of any picture."""
    made = [
        spec.scale,
        spec.columns,
        spec.tint,
        spec.encoding,
        spec.output.suffix,
        spec.preview and PREVIEW,
    ]
    shown = None if spec.page is None else [spec.anonymous, spec.thumbnails]
    settings = [*map(str, made), spec.tile_map and spec.tile_map.suffix, shown, identity_of(spec, tools)]
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def _recorded_outcome(record: Record) -> Outcome:
    """The outcome in a record, where tuples are lists."""
    values: dict[str, Any] = {field.name: record[field.name] for field in fields(Outcome)}
    values.update({name: tuple(value) for name, value in values.items() if isinstance(value, list)})
    return Outcome(**values)


def _made_outcome(name: str, output: str, result: RenderResult, seconds: float) -> Outcome:
    files = parts_of(result.output)
    return Outcome(
        source=name,
        status=MADE,
        output=output,
        source_size=result.source_size,
        size=result.size,
        cells=result.cells,
        seconds=round(seconds, 3),
        mpx_per_second=round(result.size[0] * result.size[1] / 1e6 / seconds, 3),
        bytes=sum(size for _, size, _ in state(*files)),
        sha256=digest("sha256", *files),
    )
