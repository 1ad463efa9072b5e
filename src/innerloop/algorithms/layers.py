"""What algorithms ask of a module's layers, by the names that their parameters have."""

from __future__ import annotations

from torch import nn

from innerloop.core.errors import ContractError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def convolutions(module: nn.Module) -> list[str]:
    """Names of the convolutions, in the module's order."""
    return [name for name, layer in module.named_modules() if isinstance(layer, CONVOLUTIONS)]


def affine_after(module: nn.Module, convolution: str) -> str:
    """The layer that scales and shifts a convolution's maps: the normalisation defined next, or itself.

    Its `weight` and `bias` have a row for each channel. In front of a normalisation a scale and a shift would
    be undone, so one without parameters of its own is refused.
    """
    layers = [(name, layer) for name, layer in module.named_modules() if not any(layer.children())]
    place = next(i for i, (name, _) in enumerate(layers) if name == convolution)
    channels = layers[place][1].out_channels
    following = [(name, layer) for name, layer in layers[place + 1 : place + 2] if _normalises(layer)]
    name, layer = (following or layers[place : place + 1])[0]
    rows = [getattr(layer, kind) is not None and len(getattr(layer, kind)) for kind in ("weight", "bias")]
    if rows != [channels, channels]:
        raise ContractError(
            f"layer {name!r} without a weight and a bias for each of {channels} channels",
            expected="a convolution with a bias, or behind it a normalisation with scale and shift",
            do="give that layer a weight and a bias (affine=True), or choose another layer",
        )
    return name


def _normalises(layer: nn.Module) -> bool:
    return isinstance(layer, NORMALISATIONS)


def normalisation_parameters(module: nn.Module) -> set[str]:
    """Names of the scales and shifts of normalisations."""
    layers = {name: layer for name, layer in module.named_modules() if _normalises(layer)}
    named = {f"{name}.{own}" for name, layer in layers.items() for own, _ in layer.named_parameters()}
    return named & {name for name, _ in module.named_parameters()}
