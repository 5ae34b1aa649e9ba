"""A kind of decoder is a class and a line in the table, and all else follows."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from conftest import photo, save

import hirez_mosaic
from hirez_mosaic import render
from hirez_mosaic.errors import DecoderError, SettingError
from hirez_mosaic.nets.decoders import Decoder, load_decoder, new_decoder, unlearned_decoder
from hirez_mosaic.nets.decoders.nearest import Nearest
from hirez_mosaic.nets.decoders.residual import ResidualDecoder
from hirez_mosaic.settings.choosing import DECODERS
from hirez_mosaic.settings.decoders import KINDS, DecoderKind

HERE = Path(hirez_mosaic.__file__).parent


class Darkest(Nearest):
    """A toy: the template whose mean is farthest below the cell's."""

    kind = "darkest"
    description = "the darkest"

    def __init__(self, templates: torch.Tensor, fingerprint: str) -> None:
        super().__init__(len(templates), fingerprint, 192)
        self.register_buffer("means", templates.flatten(1).mean(1))

    def score(self) -> Callable[..., torch.Tensor]:
        means = self.get_buffer("means")
        return lambda queries, block, out=None: queries.mean(1, keepdim=True) - means[None, block]


class Shifted(ResidualDecoder):
    """A toy that learns."""

    kind = "shifted"


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_a_toy_kind_renders(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "darkest", DecoderKind(f"{__name__}:Darkest", together=False))
    source, folder = save(tmp_path / "source.png", photo(40, 48)), make_templates(12)
    result = render(source, folder, 8, tmp_path / "m.png", decoder="darkest", workspace=tmp_path / "work", chunk=3)
    assert result.decoder == "the darkest"
    assert "encode" not in result.seconds
    index_map = zarr.open_array(tmp_path / "work" / "index_map", mode="r")[:]
    means = [photo(24, 24, seed=100 + number).mean() for number in range(12)]
    assert (index_map == np.argmin(means)).all()
    with pytest.raises(SettingError, match="`fit` adapts the residual decoder and `decoder` is darkest"):
        render(source, folder, 8, tmp_path / "n.png", decoder="darkest", fit=3)
    with pytest.raises(DecoderError, match="takes auto, residual, paper, l2, ssim, darkest or a file"):
        render(source, folder, 8, tmp_path / "n.png", decoder="darkets")


@pytest.mark.usefixtures("own_cache", "with_random_weights")
def test_a_toy_kind_that_learns_is_fitted_and_comes_back_from_its_file(
    tmp_path: Path, make_templates: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "shifted", DecoderKind(f"{__name__}:Shifted", learns=True, fits=True))
    source, folder = save(tmp_path / "source.png", photo(40, 48)), make_templates(12)
    result = render(source, folder, 8, tmp_path / "m.png", decoder="shifted", fit=2)
    assert result.decoder == "shifted, fitted to the source in 2 steps"
    decoder = new_decoder("shifted", torch.rand(5, 8, 8, 3), "f")
    decoder.save(tmp_path / "d.safetensors")
    assert type(load_decoder(tmp_path / "d.safetensors", 5, "f")) is Shifted


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_answers(kind: str) -> None:
    decoder = unlearned_decoder(kind, torch.rand(5, 8, 8, 3), "f")
    assert (decoder.kind, decoder.template_count, decoder.fingerprint) == (kind, 5, "f")
    assert decoder.description
    assert (decoder.trunk_norm(torch.eye(257, dtype=torch.float64)) is not None) == decoder.reads_features
    if KINDS[kind].learns:
        learned = new_decoder(kind, torch.rand(5, 8, 8, 3), "f")
        assert list(learned.learned())
        decoder = learned
    if KINDS[kind].fits:
        copied = decoder.for_fitting()
        assert copied is not decoder
        assert copied.kind == kind
    else:
        with pytest.raises(TypeError, match=f"A {kind} decoder cannot be fitted"):
            decoder.for_fitting()


def test_what_decoder_takes_follows_from_the_table() -> None:
    assert ("auto", *KINDS) == DECODERS


def test_nobody_asks_a_decoder_for_its_class() -> None:
    names = {kind.place.split(":")[1] for kind in KINDS.values()} | {
        Decoder.__name__,
        "LearnedDecoder",
        "NearestAsSeen",
    }
    for file in HERE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                assert not names & set(ast.unparse(node.args[1]).replace("|", " ").split()), (
                    f"{file}: {ast.unparse(node)}"
                )
