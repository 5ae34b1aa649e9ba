"""Tensors in safetensors files that appear when they are complete: decoders and checkpoints of training."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hirez_mosaic.files.fresh import fresh


def save_whole(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write safetensors; the file appears, or replaces another, when it is complete.

    Raises OSError where it cannot be written.
    """
    try:
        with fresh(path) as made:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, made, metadata=metadata
            )
    except SafetensorError as error:
        code = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
        raise OSError(code, f"{path} cannot be written: {error}") from error


def read_whole(path: Path, key: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read what `save_whole` wrote: the JSON under `key` of the metadata ({} where there is none), and the tensors.

    Raises OSError where it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(key, "{}"))
            return described, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise OSError(errno.EIO, f"{path} cannot be read: {error}") from error
