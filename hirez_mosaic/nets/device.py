"""Which device the networks run on, and in which precision."""

import torch

from hirez_mosaic.errors import DeviceError, SettingError


def resolve_device(wanted: str) -> torch.device:
    """Return the device that a word names.

    wanted: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises SettingError for any other word, DeviceError for a device that is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingError(f"The device is {wanted!r}; use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(
                f"The device {wanted} was asked for and PyTorch sees {count} CUDA devices; use `device=cpu`."
            )
    return device


def resolve_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the encoder's type.

    wanted: "float32", "bfloat16", or "auto": bfloat16 where the device computes faster in it, else float32.
    """
    if wanted == "auto":
        quick = torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else _cpu_has_bfloat16()
        return torch.bfloat16 if quick else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]


def _cpu_has_bfloat16() -> bool:
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, and not in every version
    return any(getattr(torch.cpu, test, bool)() for test in tests)


def device_name(device: torch.device) -> str:
    """Return the device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
