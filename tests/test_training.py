"""Training as a person runs it: from folders, resumed, and with all that can go wrong."""

import csv
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from conftest import photo, save

from hirez_mosaic import render, train
from hirez_mosaic.errors import DecoderError, OutputExistsError, SettingError, TrainingError
from hirez_mosaic.jobs import train as training
from hirez_mosaic.jobs.listener import Listener
from hirez_mosaic.jobs.photos import Photos
from hirez_mosaic.nets.training import CENTRED, PAPER, TrainingRecipe


class Hearing(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def unreadable(self, folder: Path, files: Sequence[tuple[str, str]]) -> None:
        self.notes += [f"{folder / name} {why}" for name, why in files]


@pytest.fixture
def folders(
    tmp_path: Path, own_cache: Path, with_random_weights: None, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Templates and pictures; crops of 128 px instead of 512, a checkpoint every 4 steps."""
    monkeypatch.setattr(training, "CROP_SIDE", 128)
    monkeypatch.setattr(training, "EVERY", 4)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for number in range(30):
        save(tmp_path / "templates" / f"{number:02d}.png", photo(16, 16, seed=number))
    for number in range(6):
        save(
            tmp_path / "images" / ("deep" if number % 2 else "") / f"{number}.png",
            photo(150 + 20 * number, 240, seed=50 + number),
        )
    (tmp_path / "images" / "labels.json").write_text("{}")
    save(tmp_path / "images" / "small.png", photo(20, 20))
    return tmp_path / "templates", tmp_path / "images"


def small(**more: object) -> dict[str, object]:
    return {"tile": 8, "batch": 2, "device": "cpu", "precision": "float32", **more}


@pytest.mark.parametrize("decoder", ["residual", "paper"])
def test_a_trained_decoder_renders_and_is_taken_from_the_cache(
    decoder: str, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = training._why_not_cached
    monkeypatch.setattr(
        training, "_why_not_cached", lambda *given, better: reason(*given, better=True)
    )  # six steps need not make it better
    heard = Hearing()
    result = train(*folders, "d.safetensors", decoder=decoder, steps=6, listener=heard, **small())
    assert result.pictures == 6
    assert {name for name, _ in result.left_out} == {"labels.json", "small.png"}
    assert any("labels.json is not a picture that can be read" in note for note in heard.notes)
    assert any("small.png is below 64 px a side: " in note for note in heard.notes)
    assert result.hard_loss[1] <= result.hard_loss[0]
    with Path("d.safetensors.training/log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(float(line["loss"])) for line in lines)
    assert lines[3]["hard loss"]
    assert not lines[2]["hard loss"]
    preview = pyvips.Image.new_from_file("d.safetensors.training/preview.png")
    assert preview.height == 2 * 128
    source = save(tmp_path / "source.png", photo(64, 64))
    told = render(source, folders[0], 8, "m.png")
    named = render(source, folders[0], 8, "n.png", decoder="d.safetensors")
    assert f"{decoder}, trained" in named.decoder
    assert "fit" not in named.seconds
    if decoder == "residual":
        assert "residual, trained" in told.decoder
        mosaics = [pyvips.Image.new_from_file(name).numpy() for name in ("m.png", "n.png")]
        np.testing.assert_array_equal(*mosaics)
    else:
        assert "residual, not fitted" in told.decoder
        assert (
            "because it is the paper's, which is there to be compared; name it to them with `decoder=d.safetensors`"
            in heard.notes[-1]
        )
    assert "fit" in render(source, folders[0], 8, "o.png", decoder="residual", fit=1).seconds
    with pytest.raises(DecoderError, match="was made for 30 other templates"):
        render(source, folders[0], 16, "p.png", decoder="d.safetensors")


@pytest.mark.parametrize(
    ("settings", "lack"),
    [
        ({"rate": 1e-9}, "it is no better than its start"),
        ({"far_weight": 0.0}, "without the far view"),
        ({"scales": (0,)}, "for other scales"),
    ],
    ids=str,
)
def test_what_no_render_should_take_unasked_is_told(
    settings: dict[str, object], lack: str, folders: tuple[Path, Path]
) -> None:
    heard = Hearing()
    train(*folders, "d.safetensors", steps=2, listener=heard, **small(**settings))
    assert lack in heard.notes[-1]
    save(Path("source.png"), photo(64, 64))
    assert "residual, not fitted" in render("source.png", folders[0], 8, "m.png").decoder


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_killed_and_resumed(folders: tuple[Path, Path], tmp_path: Path, thin_child: str) -> None:
    """In a process of its own that is killed with SIGKILL in its step 8, after checkpoints of the steps 3 and 6."""
    code = (  # windows smaller than crops, and checkpoints between the steps that share crops
        "import dataclasses, os, signal, sys, hirez_mosaic.jobs.train as t\n"
        "t.CROP_SIDE, t.EVERY, t.RECIPES['default'] = 128, 3, dataclasses.replace(t.RECIPES['default'], window=12)\n"
        "run = t.Trainer.run\n"
        "def to_the_end(self, *given):\n"
        "    if self.step == 7 and 'kill' in sys.argv:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return run(self, *given)\n"
        "t.Trainer.run = to_the_end\n"
        "t.train('templates', 'images', sys.argv[1], 8, batch=2, steps=12, device='cpu', precision='float32', "
        "resume='go' in sys.argv)\n"
    )

    def start(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", thin_child + code, *words], cwd=tmp_path, stderr=subprocess.PIPE, check=False
        )

    killed = start("broken.safetensors", "kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "broken.safetensors.training" / "log.csv").read_text().count("\n") == 8
    assert not (tmp_path / "broken.safetensors").exists()
    for words in (("broken.safetensors", "go"), ("whole.safetensors",)):
        done = start(*words)
        assert done.returncode == 0, done.stderr.decode()
    files = [tmp_path / f"{name}.safetensors" for name in ("broken", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    logs = [Path(f"{file}.training/log.csv").read_text() for file in files]
    assert logs[0] == logs[1]


def test_a_loss_that_is_no_number_stops_and_names_the_checkpoint(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.Trainer.run

    def poisoned(self: training.Trainer, *arguments: object) -> object:
        told = run(self, *arguments)  # type: ignore[arg-type]
        return training.Told(float("nan"), 0.0, 0.0, 1) if self.step == 6 else told

    monkeypatch.setattr(training.Trainer, "run", poisoned)
    with pytest.raises(
        TrainingError,
        match=r"Step 6 ended with a loss of nan; the last good checkpoint is d.safetensors.training.*\(step 4\)",
    ):
        train(*folders, "d.safetensors", steps=8, **small())
    assert Path("d.safetensors.training/checkpoint.safetensors").exists()
    assert not Path("d.safetensors").exists()


def test_weights_that_are_no_numbers_never_reach_the_checkpoint(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.Trainer.run

    def poisoned(self: training.Trainer, *arguments: object) -> object:
        told = run(self, *arguments)  # type: ignore[arg-type]
        if self.step == 8:
            with torch.no_grad():
                self.decoder.spread.weight.fill_(float("nan"))
        return told

    monkeypatch.setattr(training.Trainer, "run", poisoned)
    with pytest.raises(TrainingError, match=r"Step 8 ended with a weight that is no number.*\(step 4\)"):
        train(*folders, "d.safetensors", steps=12, **small())
    monkeypatch.setattr(training.Trainer, "run", run)
    assert train(*folders, "d.safetensors", steps=12, resume=True, **small()).steps == 12


def test_the_window_is_as_large_as_was_asked_for(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    run = training.Trainer.run

    def watched(trainer: training.Trainer, objective: object, windows: list) -> training.Told:
        seen.extend((box.height, box.width) for _, box in windows)
        return run(trainer, objective, windows)  # type: ignore[arg-type]

    monkeypatch.setattr(training.Trainer, "run", watched)
    train(*folders, "d.safetensors", steps=2, window=72, **small())
    assert seen == [(9, 9)] * 4
    for window in (60, 68, 520):
        with pytest.raises(SettingError, match=f"The window is {window} px; use 64 to 512, a multiple of 8"):
            train(*folders, "e.safetensors", window=window, **small())


def test_the_papers_decoder_has_a_recipe_of_its_own_and_the_printed_one_by_name() -> None:
    def chosen(name: str, decoder: str) -> TrainingRecipe:
        return training._chosen_recipe(name, decoder, None, None, None, None, None)

    assert chosen("default", "paper") == CENTRED
    assert chosen("paper", "paper") == PAPER
    assert chosen("default", "residual") == training.RECIPES["default"]


def test_a_damaged_picture_gives_its_place_to_another(folders: tuple[Path, Path]) -> None:
    for name in ("0.png", "deep/1.png", "deep/3.png"):
        path = folders[1] / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = train(*folders, "d.safetensors", steps=6, **small())
    assert result.steps == 6
    assert {"0.png", "small.png", "labels.json"} <= {name for name, _ in result.left_out}
    assert len(result.left_out) == len(set(result.left_out))


def test_a_collapsing_selection_is_told(folders: tuple[Path, Path]) -> None:
    heard = Hearing()
    train(*folders, "d.safetensors", steps=8, rate=5.0, listener=heard, **small())
    assert any("The selection is collapsing" in note for note in heard.notes)


def test_what_cannot_be_trained_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no picture")
    (tmp_path / "tiny").mkdir()
    save(tmp_path / "tiny" / "a.png", photo(30, 300))
    with pytest.raises(TrainingError, match="holds no picture of at least 64 px"):
        train(folders[0], "texts", "d.safetensors", **small())
    with pytest.raises(TrainingError, match=r"holds no picture of at least 64 px a side among its 1 files: a\.png"):
        train(folders[0], "tiny", "d.safetensors", **small())
    with pytest.raises(TrainingError, match=r"There is no folder of pictures .*nowhere"):
        train(folders[0], "nowhere", "d.safetensors", **small())
    with pytest.raises(TrainingError, match="There is no checkpoint"):
        train(*folders, "d.safetensors", resume=True, **small())
    with pytest.raises(SettingError, match=r"should end in \.safetensors"):
        train(*folders, "d.pt", **small())
    with pytest.raises(SettingError, match="Steps and batch are 1 or more"):
        train(*folders, "d.safetensors", steps=0, **small())
    train(*folders, "d.safetensors", steps=1, **small())
    with pytest.raises(OutputExistsError, match="`resume`"):
        train(*folders, "d.safetensors", steps=1, **small())
    with pytest.raises(TrainingError, match=r"far_weight 0\.3 instead of 3"):
        train(*folders, "d.safetensors", steps=1, far_weight=3.0, resume=True, **small())


def test_crops_depend_on_seed_and_group_alone(folders: tuple[Path, Path]) -> None:
    def crops(jobs: int, seed: int, group: int) -> list[np.ndarray]:
        photos = Photos(folders[1], 128, seed, jobs)
        try:
            return photos.ahead(range(6), group, 3)()
        finally:
            photos.close()

    one, same, other = crops(1, 0, 5), crops(2, 0, 5), crops(2, 0, 6)
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(one, other, strict=True))
    assert all(crop.shape == (128, 128, 3) for crop in one)


def test_what_training_leaves_does_not_lie_among_what_it_reads(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        with pytest.raises(SettingError, match="and its preview would lie among the pictures in"):
            train(*folders, folder / "d.safetensors", **small())
        assert not (folder / "d.safetensors.training").exists()


def test_hidden_folders_are_not_trained_on(folders: tuple[Path, Path]) -> None:
    (folders[1] / ".thumbnails").mkdir()
    save(folders[1] / ".thumbnails" / "0.png", photo(200, 200))
    photos = Photos(folders[1], 128, 0, 1)
    photos.close()
    assert len(photos.files) == 6
    assert [name for name, _ in photos.left_out] == ["labels.json", "small.png"]


def test_a_crop_of_a_picture_with_more_channels_is_its_colours(tmp_path: Path) -> None:
    px = np.dstack([photo(140, 150, seed=3), np.full((140, 150, 2), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", px, photometric="rgb", extrasamples=["unassalpha", "unspecified"])
    save(tmp_path / "b.png", px[..., :3])
    photos = Photos(tmp_path, 128, 0, 1)
    first, second = (photos.ahead(range(number, number + 1), 0, 1)()[0] for number in range(2))
    photos.close()
    assert first.shape == (128, 128, 3)
    np.testing.assert_array_equal(first, second)
