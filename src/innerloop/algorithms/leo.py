"""LEO: inner steps in a small latent space, from which a classifier's weights are generated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.base import embedding_size as width_of
from innerloop.core import tree
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy, Params, inner_gradient
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import count_ways, mode
from innerloop.core.rng import fold_key, keyed_normal, keyed_uniform
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled
from innerloop.models import MLP

# Streams of randomness beside those of inner steps, which count up from 0, and of layers, which count down.
_CODES, _WEIGHTS, _INPUTS, _QUERIES = (2**20 + i for i in range(4))


class LEO(ModuleLearner):
    """Encodes the support as a code for each class, decodes codes to a classifier, and adapts the codes.

    Of the embedded support f(x), with an encoder, a relation network and a decoder:

        z_n ~ N(mu_n, sigma_n), the mean of relation(encode f(x_i), encode f(x_j)) over i of class n and all j
        w_n ~ N(decode(z_n));   logits_n(x) = w_n . f(x)
        z <- z - a * grad_z L_S(decode(z)), `latent_steps` times
        w <- w - b * grad_w L_S(w), `finetuning_steps` times

    Outer objective: L_Q(w) + kl_weight KL(z || N(0, I)) + encoder_weight |stopgrad(z') - z|^2, with z' the
    adapted codes, and penalties on the networks: l2_weight |.|^2 / 2, and orthogonality_weight |C - I|^2 for
    the correlations C of the decoder's columns. All but l2_weight's are means over the numbers.
    Meta-learned: the embedding (if it has parameters), the three networks, and rates a for each latent
    dimension and b for each dimension of the embedding. Adapted: codes, then weights.

    Cost per inner step: forward and backward passes of the decoder and of a linear classifier; the support is
    embedded once. The relation network sees every pair of support examples.

    Strengths: one-shot tasks on good fixed features, where an inner loop in all weights would overfit. It has
    much to tune, and a simple head on the same features may be as good.
    Published: miniImageNet 5-way 1-shot 61.76 +- 0.08, 5-way 5-shot 77.59 +- 0.12 (the paper, on features of
    a wide residual network); miniImageNet 5-way 1-shot 53.31, 5-way 5-shot 67.47 (LibFewShot, four blocks of
    64 filters).

    Args:
        module: any embedding, [S, ...] to [S, D] (or to maps, which are flattened); one without parameters,
            such as `MLP(D, None, hidden=())`, takes features as they are.
        latents: dimensions of a code, >= 1.
        latent_steps: inner steps on codes, >= 0.
        finetuning_steps: inner steps on weights after those, >= 0.
        latent_lr: initial value of the rates a, > 0.
        finetuning_lr: initial value of the rates b, > 0.
        dropout: probability of dropping a number of an embedding in meta-training, in [0, 1).
        kl_weight: weight of the divergence of codes from a standard normal distribution, >= 0.
        encoder_weight: weight of the distance from the first codes to the adapted ones, >= 0. The
            stop-gradient in it is the paper's; by as much the meta-gradient is not the objective's own.
        l2_weight: weight of half the squared norm of the three networks, >= 0.
        orthogonality_weight: weight of the correlations of the decoder's columns, >= 0.
        deterministic: whether codes and weights are the means of their distributions, without a draw.
        embedding_size: the width D of a module that is not of `il.models`.
        batch_norm: `running`, `support` or `transductive`; see `core.functional.FunctionalModule`.

    Dropout and the weights of the penalties are the authors' for miniImageNet 5-way 1-shot, found for one
    kind of features: tune them for others. At test nothing is drawn.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LEO(il.models.MLP(384, None, hidden=()), latents=16)
    >>> sorted(learner.init(torch.Generator().manual_seed(0)))
    ['decoder', 'encoder', 'params', 'rates', 'relation']
    >>> learner.inner_steps
    10

    Differences from the paper: standard deviations are those of the official code, max(exp(s) - 1 + e, 1e-10)
    for an output s, with e = sqrt(2 / (D + ways)) for weights and 0 for codes. That code draws as many codes
    for a class as it has examples, and averages what they predict; here each class has one.

    Reference: Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero and Hadsell 2019, arXiv 1807.05960.
    """

    solves = ("cross_entropy",)
    embeds = any_ways = amortised = True
    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        latents: int = 64,
        latent_steps: int = 5,
        finetuning_steps: int = 5,
        latent_lr: float = 1.0,
        finetuning_lr: float = 1e-3,
        dropout: float = 0.307651,
        kl_weight: float = 0.756143,
        encoder_weight: float = 5.756821e-6,
        l2_weight: float = 3.623413e-10,
        orthogonality_weight: float = 0.188103,
        deterministic: bool = False,
        embedding_size: int | None = None,
        batch_norm: BatchNormPolicy = "running",
    ) -> None:
        self.latents = check_count("latents", latents)
        self.latent_steps = check_count("latent_steps", latent_steps, low=0)
        self.finetuning_steps = check_count("finetuning_steps", finetuning_steps, low=0)
        self.inner_steps = self.test_inner_steps = latent_steps + finetuning_steps
        check_range("latent_lr", latent_lr, low=0.0, open_low=True)
        check_range("finetuning_lr", finetuning_lr, low=0.0, open_low=True)
        check_range("dropout", dropout, low=0.0, high=0.99)
        self.latent_lr, self.finetuning_lr, self.dropout = latent_lr, finetuning_lr, dropout
        self.kl_weight, self.encoder_weight = kl_weight, encoder_weight
        self.l2_weight, self.orthogonality_weight = l2_weight, orthogonality_weight
        for name in ("kl_weight", "encoder_weight", "l2_weight", "orthogonality_weight"):
            check_range(name, getattr(self, name), low=0.0)
        self.deterministic, self.embedding_size = deterministic, embedding_size
        self._width = width_of(module, embedding_size)
        pair = 2 * latents
        parts = {
            "encoder": MLP(self._width, latents, hidden=(), bias=False),
            "relation": MLP(pair, pair, hidden=(pair, pair), bias=False),
            "decoder": MLP(latents, 2 * self._width, hidden=(), bias=False),
        }
        self._wrap(module, "cross_entropy", batch_norm, parts=parts)

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        like = meta["encoder"]["head.weight"]
        rates = {"codes": like.new_full((self.latents,), self.latent_lr)} if self.latent_steps else {}
        if self.finetuning_steps:
            rates["weights"] = like.new_full((self._width,), self.finetuning_lr)
        return meta | ({"rates": rates} if rates else {})

    def begin(self, meta: Meta, support: Batch) -> Fast:
        ways = mode().ways or count_ways(support.y) or 0
        features = self._embedded(meta, support.x)
        labels = nn.functional.one_hot(support.y, ways).to(features.dtype)
        mean, deviation = self._codes(meta, features, labels)
        codes = mean + deviation * self._noise(mean, _CODES)
        weights = self._decoded(meta, codes, _WEIGHTS)
        kl = (deviation.square() + mean.square() - 1).mean() / 2 - deviation.log().mean()
        fast: Fast = {"codes": codes, "weights": weights, "first": codes, "kl": kl}
        if mode().whole:
            fast["features"] = features
        return fast | {DATA: {"support": support.x}} if self.net.needs_support else fast

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        features = fast["features"] if "features" in fast else self._embedded(meta, support.x)
        features = self._dropped(features, _INPUTS)
        latent = k < self.latent_steps
        name = "codes" if latent else "weights"

        def support_loss(params: Params) -> Tensor:
            weights = self._decoded(meta, params["codes"], _CODES) if latent else params["weights"]
            return cross_entropy(linear(features, weights), support.y)

        grads = inner_gradient(support_loss, {name: fast[name]})
        moved = fast[name] - meta["rates"][name] * grads[name]
        weights = self._decoded(meta, moved, _WEIGHTS) if latent else moved
        return fast | {name: moved, "weights": weights}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        features = self._embedded(meta, inputs, fast.get(DATA, {}).get("support"))
        return linear(self._dropped(features, _QUERIES), fast["weights"])

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        loss, statistics = super().query_loss(meta, fast, query)
        return (loss + self._penalties(meta, fast) if mode().training else loss), statistics

    def _codes(self, meta: Meta, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution of each class's code: means and standard deviations [ways, latents]."""
        encoded = self.parts["encoder"](meta["encoder"], self._dropped(features, _INPUTS))
        size = len(encoded)
        pairs = torch.cat([encoded[:, None].expand(-1, size, -1), encoded[None].expand(size, -1, -1)], dim=-1)
        related = self.parts["relation"](meta["relation"], pairs.flatten(0, 1))
        each = related.unflatten(0, (size, size)).mean(1)
        return _gaussian((labels.T @ each) / labels.sum(0)[:, None], 0.0)

    def _decoded(self, meta: Meta, codes: Tensor, stream: int) -> Tensor:
        """Weights [ways, D] drawn from the distribution that codes [ways, latents] stand for."""
        offset = (2.0 / (self._width + len(codes))) ** 0.5
        mean, deviation = _gaussian(self.parts["decoder"](meta["decoder"], codes), offset)
        return mean + deviation * self._noise(mean, stream)

    def _penalties(self, meta: Meta, fast: Fast) -> Tensor:
        away = (fast["codes"].detach() - fast["first"]).square().mean()
        norms = [leaf.square().sum() for part in self.parts for leaf in tree.leaves(meta[part])]
        columns = meta["decoder"]["head.weight"]
        columns = columns / (columns.norm(dim=0) + 1e-32)
        correlations = columns.T @ columns
        identity = torch.eye(self.latents, dtype=correlations.dtype, device=correlations.device)
        penalty = self.encoder_weight * away + self.l2_weight * torch.stack(norms).sum() / 2
        penalty = penalty + self.orthogonality_weight * (correlations - identity).square().mean()
        return penalty if self.deterministic else penalty + self.kl_weight * fast["kl"]

    def _embedded(self, meta: Meta, inputs: Tensor, support: Tensor | None = None) -> Tensor:
        params, statistics = self.weights(meta), meta.get(STATISTICS)
        return self.net(params, inputs, statistics=statistics, support_x=support).flatten(1)

    def _noise(self, like: Tensor, stream: int) -> Tensor:
        """Standard normal draws where something is drawn; else zeros."""
        key = mode().key
        if self.deterministic or not mode().training or key is None:
            return torch.zeros_like(like)
        return keyed_normal(fold_key(key, stream), tuple(like.shape)).to(like)

    def _dropped(self, features: Tensor, stream: int) -> Tensor:
        key = mode().key
        if not self.dropout or not mode().training or key is None:
            return features
        kept = keyed_uniform(fold_key(key, stream), tuple(features.shape)) >= self.dropout
        return features * kept / (1.0 - self.dropout)


def _gaussian(outputs: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Means, and standard deviations that are `offset` where their half of the outputs is zero."""
    mean, raw = outputs.chunk(2, dim=-1)
    return mean, (raw.exp() - (1.0 - offset)).clamp(min=1e-10)
