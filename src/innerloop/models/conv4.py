"""Four convolution blocks: the network of few-shot image classification."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.types import TaskSpec
from innerloop.models.base import Model, first_draw, global_rng_untouched


class Conv4(Model):
    """Four blocks of 3x3 convolution, normalisation and ReLU, then a linear head.

    Args:
        ways: number of classes; None ends before the head, for an embedding (ProtoNet).
        channels: input channels.
        size: height and width of the images, at least 16.
        width: filters of each block. The papers: 64 on Omniglot, 32 on miniImageNet with MAML.
        pooling: `stride` halves the image by stride 2 and ends with a spatial mean (MAML's Omniglot
            network); `max` by 2x2 max-pooling and ends flattened (ProtoNet's, and miniImageNet's).
        halvings: how many blocks, the first of them, halve the image; 2 leaves maps to compare (RelationNet).
        norm: `batch`, `group` (8 channels a group), or `none`.
        dropout: probability of dropping a channel after each block in meta-training.

    Convolutions are drawn Xavier-uniform with zero bias, the head as `nn.Linear` draws it.
    """

    def __init__(
        self,
        ways: int | None = 5,
        *,
        channels: int = 1,
        size: int = 28,
        width: int = 64,
        pooling: Literal["stride", "max"] = "stride",
        halvings: int = 4,
        norm: Literal["batch", "group", "none"] = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, low in [("channels", channels, 1), ("size", size, 16), ("width", width, 1)]:
            check_count(name, value, low=low)
        if ways is not None:
            check_count("ways", ways, low=2)
        check_count("halvings", halvings, low=0)
        check_range("halvings", halvings, high=4)
        check_range("dropout", dropout, low=0.0, high=0.99)
        for name, value, known in [
            ("pooling", pooling, ("stride", "max")),
            ("norm", norm, ("batch", "group", "none")),
        ]:
            if value not in known:
                raise ConfigError(
                    f"{name} = {value!r}", expected=f"one of {', '.join(known)}", do="choose one"
                )
        self.ways, self.channels, self.size, self.width = ways, channels, size, width
        self.pooling, self.halvings, self.norm, self.dropout = pooling, halvings, norm, dropout
        with global_rng_untouched():
            blocks = []
            for index in range(4):
                halves = index < halvings
                blocks.append(self._block(channels if index == 0 else width, halves=halves))
                if halves:
                    size = (size + 1) // 2 if pooling == "stride" else size // 2
            self.body = nn.Sequential(*blocks)
            self._maps = (width,) if pooling == "stride" else (width, size, size)
            self._features = width if pooling == "stride" else width * size * size
            self.head = nn.Identity() if ways is None else nn.Linear(self._features, ways)
        self.draw(first_draw())

    @classmethod
    def sizes_for(cls, spec: TaskSpec, *, embeds: bool) -> dict[str, Any]:
        if len(spec.input_shape) != 3 or spec.input_shape[1] != spec.input_shape[2]:
            raise ConfigError(
                f"Conv4 on inputs of shape {spec.input_shape}",
                expected="square images, shape (channels, size, size)",
                do="choose MLP as the model, or tasks made of images",
            )
        sizes = {"channels": spec.input_shape[0], "size": spec.input_shape[1]}
        return sizes | {"ways": None if embeds else spec.outputs}

    @property
    def output_size(self) -> int:
        return self.ways or self._features

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.ways,) if self.ways else self._maps

    def draw(self, rng: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight, generator=rng)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=rng)
                nn.init.uniform_(module.bias, -bound, bound, generator=rng)
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        return self.head(maps.mean((2, 3)) if self.pooling == "stride" else maps.flatten(1))

    def _block(self, channels: int, *, halves: bool) -> nn.Sequential:
        strided = self.pooling == "stride" and halves
        layers: list[nn.Module] = [nn.Conv2d(channels, self.width, 3, stride=2 if strided else 1, padding=1)]
        if self.norm == "batch":
            layers.append(nn.BatchNorm2d(self.width))
        elif self.norm == "group":
            layers.append(nn.GroupNorm(max(1, self.width // 8), self.width))
        layers.append(nn.ReLU())
        layers += [nn.MaxPool2d(2)] if halves and not strided else []
        layers += [nn.Dropout2d(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers)
