"""VGG-16 (Simonyan and Zisserman, 2015) with taps by the layers' names, and the encoder: its part up to pool3."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def layers() -> Iterator[tuple[str, int]]:
    """Yield (name, output channels) of conv1_1, conv1_2, pool1, ..., conv5_3 in the order data flows."""
    for block, widths in enumerate(_BLOCKS, 1):
        for index, width in enumerate(widths, 1):
            yield f"conv{block}_{index}", width
        if block < len(_BLOCKS):
            yield f"pool{block}", widths[-1]


class VGG16(nn.Module):
    """VGG-16's convolutions, each followed by its ReLU, up to and including the layer `last`.

    A conv's tap is its activation after the ReLU. Pools round up ("SAME", as in the paper).

    stride: px per output element at `last`.
    reach: px beyond an element's stride x stride px that its value depends on.
    channels: of the output at `last`.

    Raises ValueError for a layer that VGG-16 has not.
    """

    def __init__(self, last: str = "conv5_3") -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.stride, self.reach, self.channels = 1, 0, 3
        for name, width in layers():
            if name.startswith("pool"):
                self.layers[name] = nn.MaxPool2d(2, 2, ceil_mode=True)
                self.stride *= 2
            else:
                self.layers[name] = nn.Conv2d(self.channels, width, 3, padding=1)
                self.reach += self.stride  # one element of this layer on each side
            self.channels = width
            if name == last:
                break
        else:
            raise ValueError(f"VGG-16 has no layer {last!r}.")
        self.requires_grad_(False)
        self.eval()

    @property
    def halo(self) -> int:
        """The reach rounded up to the stride, px."""
        return math.ceil(self.reach / self.stride) * self.stride

    def forward(self, images: torch.Tensor, taps: Sequence[str] = ()) -> list[torch.Tensor]:
        """Return the taps in the order given, or the last layer alone where there are none.

        Each has the type of the weights, and the shape (N, C, ceil(H / stride), ceil(W / stride)) of its layer.

        images: (N, 3, H, W) float32 in [0, 1].
        taps: names of layers.
        """
        wanted = list(taps) or [list(self.layers)[-1]]
        kept: dict[str, torch.Tensor] = {}
        x = self._normalised(images)
        for name in self.layers:
            x = self._after(name, x)
            if name in wanted:
                kept[name] = x
            if len(kept) == len(set(wanted)):
                break
        return [kept[name] for name in wanted]

    def in_bands(self, images: torch.Tensor, height: int) -> torch.Tensor:
        """Return the last layer as `forward` makes it, with the first block made in bands: in half the memory.

        The 64 channels at full size of that block are the largest tensors there are. The net must go beyond pool1.

        images: (N, 3, H, W) float32 in [0, 1].
        height: of a band, px, an even number.
        """
        x = torch.cat([self._pool1(images, top, height) for top in range(0, images.shape[2], height)], 2)
        names = list(self.layers)
        for name in names[names.index("pool1") + 1 :]:
            x = self._after(name, x)
        return x

    def _pool1(self, images: torch.Tensor, top: int, height: int) -> torch.Tensor:
        """Return pool1 of `height` lines of px from `top`.

        It is made of as many more lines above and below as its convolutions see.
        """
        bottom, read_top = min(top + height, images.shape[2]), max(0, top - len(_BLOCKS[0]))
        x = self._normalised(images[:, :, read_top : bottom + len(_BLOCKS[0])])
        for index in range(1, len(_BLOCKS[0]) + 1):
            x = self._after(f"conv1_{index}", x)
        return self._after("pool1", x[:, :, top - read_top : bottom - read_top])

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (images.new_tensor(of).view(1, 3, 1, 1) for of in (_MEAN, _STD))
        return ((images - mean) / std).to(next(self.parameters()).dtype)

    def _after(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return a layer's activation."""
        layer = self.layers[name]
        x = layer(x)
        return torch.relu_(x) if isinstance(layer, nn.Conv2d) else x

    def load(self, weights: Mapping[str, torch.Tensor]) -> "VGG16":
        """Take "<conv>.weight" and "<conv>.bias" of each layer this net has; return itself."""
        with torch.no_grad():
            for name, layer in self.layers.items():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    layer.weight.copy_(weights[f"{name}.weight"])
                    layer.bias.copy_(weights[f"{name}.bias"])
        return self


def make_encoder(weights: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> VGG16:
    """Make VGG-16 up to pool3 (256 channels, stride 8), frozen, its weights channels-last.

    weights: see `weights.resolve_weights`.
    """
    net = VGG16("pool3").load(weights)
    return net.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
