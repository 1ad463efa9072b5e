"""Trees of tensors: nested dicts with string keys. Small on purpose, and easy to checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from innerloop.core.types import Tree


def flatten(tree: Tree, prefix: str = "", *, empties: bool = False) -> dict[str, Tensor]:
    """Path -> leaf, paths joined with '/', in the order of the dicts.

    With `empties`, a dict without leaves (the state of a rule that keeps none) is a path that ends with '/',
    so that `unflatten` gives the same tree again.
    """
    return dict(_walk(tree, prefix, empties=empties))


def unflatten(leaves: dict[str, Tensor]) -> Tree:
    """The inverse of `flatten`."""
    if set(leaves) == {""}:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        if name:
            node[name] = leaf
    return tree


def structure(tree: Tree) -> Hashable:
    """The shape of a tree without its leaves, to compare or look up by."""
    if isinstance(tree, dict):
        return tuple((name, structure(node)) for name, node in tree.items())
    return None


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in order."""
    return [leaf for _, leaf in _walk(tree, "")]


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees of one shape."""
    if isinstance(tree, dict):
        return {name: map(fn, node, *(other[name] for other in rest)) for name, node in tree.items()}
    return fn(tree, *rest)


def rebuild(tree: Tree, new_leaves: list[Tensor]) -> Tree:
    """A tree of `tree`'s shape with other leaves, in the order of `leaves(tree)`."""
    supply = iter(new_leaves)
    return map(lambda _: next(supply), tree)


def zeros_like(tree: Tree) -> Tree:
    return map(torch.zeros_like, tree)


def is_finite(tree: Tree) -> bool:
    """Whether every number in the tree is finite."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(tree))


def _walk(tree: Tree, prefix: str, *, empties: bool = False) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, dict):
        if empties and prefix and not tree:
            yield f"{prefix}/", torch.empty(0)
        for name, node in tree.items():
            yield from _walk(node, f"{prefix}/{name}" if prefix else name, empties=empties)
    else:
        yield prefix, tree
