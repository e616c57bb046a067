"""The problems: a smooth loss, one operator per parameter, starts, and what a change of the data's units does to all of it.

Sizes and constants were written down before anything ran on them. A loss takes parameters with any leading batch dims and
gives one number per batch index, and every operator is written with negative dims, so that one tensor program can run all
starts and rates at once.

The data scale multiplies X. Where the solution scales along (``unit``), the penalties are such that it does: then the
optimum is ``height`` times that at scale 1. For a regression X is the matrix of features, so a coefficient's unit is 1/scale.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn.functional import huber_loss, logsigmoid, softplus

from proxfactor.prox import (
    L1,
    MCP,
    Box,
    GroupLasso,
    Isotonic,
    L2Ball,
    L2Squared,
    NonNegative,
    Nuclear,
    Prox,
    Simplex,
    Smooth,
    TopK,
    TotalVariation,
    Unconstrained,
)

Params = Sequence[Tensor]
ENTRYWISE = (L1, L2Squared, MCP)


@dataclass(frozen=True)
class Problem:
    """minimise loss(params) + Σ prox_j(params_j).

    unit     how large each parameter is, relative to what it is at data scale 1
    height   how large the optimum is, relative to data scale 1 (None: it does not scale)
    draw     a start as a user would write it, with nothing known about the data
    fitted   the same start at data scale 1, in the data's units
    reference  the optimum at data scale 1 by a conic solver, or None
    """

    name: str
    family: str
    convex: bool
    proxs: tuple[Prox, ...]
    loss: Callable[[Params], Tensor]
    draw: Callable[[Generator], tuple[Tensor, ...]] = field(repr=False)
    fitted: Callable[..., tuple[Tensor, ...]] = field(repr=False)
    make: Callable[[float], Problem] = field(repr=False)
    scale: float = 1.0
    unit: tuple[float, ...] = ()
    height: float = 1.0
    reference: Callable[[], float] | None = field(default=None, repr=False)

    def start(self, seed: int, raw: bool) -> tuple[Tensor, ...]:
        """The start of that seed; raw and fitted ones come from the same draw."""
        drawn = self.draw(torch.Generator().manual_seed(zlib.crc32(self.name.encode()) + seed))
        return drawn if raw else tuple(x * u for x, u in zip(self.fitted(*drawn), self.unit, strict=True))

    def scaled(self, factor: float) -> Problem:
        """The same problem for X · factor."""
        return self.make(self.scale * factor)

    def penalty(self, params: Params) -> Tensor:
        """The sum of what the operators cost, per batch index; infinite outside a set."""
        return sum(cost(p, x, len(shape)) for p, x, shape in zip(self.proxs, params, self.shapes, strict=True))  # type: ignore[return-value]

    def F(self, params: Params) -> Tensor:
        with torch.no_grad():
            return self.loss(params) + self.penalty(params)

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        return tuple(x.shape for x in self.draw(torch.Generator().manual_seed(0)))


def cost(prox: Prox, x: Tensor, ndim: int) -> Tensor:
    """g(x), summed over the last ``ndim`` dims: ``prox.value`` for every batch index at once."""
    over = tuple(range(-ndim, 0))
    if hasattr(prox, "parts"):
        return sum(cost(p, x, ndim) for p in prox.parts)  # type: ignore[return-value]
    if isinstance(prox, Unconstrained):
        return x.new_zeros(x.shape[:-ndim])
    if isinstance(prox, L1):
        return prox.lam * x.abs().sum(over)
    if isinstance(prox, L2Squared):
        return prox.lam / 2 * x.square().sum(over)
    if isinstance(prox, MCP):
        a = x.abs().clamp(max=prox.gamma * prox.lam)
        return (prox.lam * a - a.square() / (2 * prox.gamma)).sum(over)
    if isinstance(prox, GroupLasso):
        return prox.lam * torch.linalg.vector_norm(x, dim=prox.dim, keepdim=True).sum(over)
    if isinstance(prox, TotalVariation):
        return prox.lam * x.diff(dim=prox.dim).abs().sum(over)
    if isinstance(prox, Smooth):
        return prox.lam / 2 * x.diff(n=prox.order, dim=prox.dim).square().sum(over)
    if isinstance(prox, Nuclear):
        return prox.lam * torch.linalg.svdvals(x).sum(-1)
    if not prox.is_set:
        raise TypeError(f"the benchmark has no batched value of {prox!r}; write one here")
    size = x.abs().amax(over).clamp(min=torch.finfo(x.dtype).tiny)
    away = prox.violation(x).amax(over)
    return torch.where(away <= torch.finfo(x.dtype).eps ** 0.5 * size, 0.0, math.inf)


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def seeded(name: str) -> Generator:
    return torch.Generator().manual_seed(zlib.crc32(b"data of " + name.encode()))


def rand(g: Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def randn(g: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def shares(x: Tensor, dim: int) -> Tensor:
    return x / x.sum(dim, keepdim=True)


def noisy(x: Tensor, g: Generator, share: float = 0.01) -> Tensor:
    return x + share * x.std() * randn(g, *x.shape)


def signs(yes: Tensor) -> Tensor:
    return torch.where(yes, 1.0, -1.0).double()


def sparse(g: Generator, n: int, k: int) -> Tensor:
    """k of n coefficients of either sign and of size about 1."""
    w = torch.zeros(n, dtype=torch.float64)
    w[torch.randperm(n, generator=g)[:k]] = randn(g, k)
    return w


def features(g: Generator, m: int, n: int, condition: float = 1.0, per_column: bool = False) -> Tensor:
    """Gaussian features; of a given condition by their singular values, or by the units of their columns."""
    Z = randn(g, m, n)
    decay = torch.logspace(0, -math.log10(condition), min(m, n), dtype=torch.float64)
    if condition == 1:
        return Z
    if per_column:
        return Z * decay[torch.randperm(n, generator=g) % len(decay)]
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    return s[0] * (U * decay) @ Vh


def half_square(r: Tensor, ndim: int) -> Tensor:
    return 0.5 * r.square().sum(tuple(range(-ndim, 0)))


def drawn(*shapes: tuple[int, ...], how: Callable = rand) -> Callable[[Generator], tuple[Tensor, ...]]:
    return lambda g: tuple(how(g, *shape) for shape in shapes)


def times(*sizes: float) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *params: tuple(s * x for s, x in zip(sizes, params, strict=True))


# ── constrained matrix factorizations: ½‖X − A S‖² and its relatives ──────────────────────────────────────────────────


def factorization(
    name: str,
    X: Tensor,
    k: int,
    proxs: tuple[Prox, Prox],
    make: Callable[[float], Problem],
    c: float,
    family: str = "factorization",
    share: float = 0.5,
    fitted: Callable | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    power: float = 2.0,
    how: Callable = rand,
) -> Problem:
    """A of unit c^share, S of unit c^(1 - share); X is the data at scale 1, fitted starts give A S the mean of |X|."""
    m, n = X.shape
    level = (4 * X.abs().mean().item() / k) ** 0.5
    return Problem(
        name=name,
        family=family,
        convex=False,
        proxs=proxs,
        loss=lambda p: loss(p[0] @ p[1]) if loss else half_square(c * X - p[0] @ p[1], 2),
        draw=drawn((m, k), (k, n), how=how),
        fitted=fitted or times(level, level),
        make=make,
        scale=c,
        unit=(c**share, c ** (1 - share)),
        height=c**power,
    )


def on_rows(level: float) -> Callable:
    """Fitted starts for A with rows on the simplex."""
    return lambda A, S: (shares(A, -1), level * S)


def on_columns(level: float) -> Callable:
    """Fitted starts for A with columns on the simplex."""
    return lambda A, S: (shares(A, -2), level * S)


def nmf(c: float) -> Problem:
    g = seeded("nmf")
    X = noisy(rand(g, 30, 5) @ rand(g, 5, 40), g)
    return factorization("nmf", X, 5, (NonNegative(), NonNegative()), nmf, c)


def nmf_wide(c: float) -> Problem:
    g = seeded("nmf-wide")
    X = noisy(rand(g, 50, 5) @ rand(g, 5, 400), g)
    return factorization("nmf-wide", X, 5, (NonNegative(), NonNegative()), nmf_wide, c)


def nmf_sparse_data(c: float) -> Problem:
    g = seeded("nmf-zeros")
    X = noisy(rand(g, 40, 6).pow(4) @ rand(g, 6, 40).pow(4), g, 0.1).clamp(min=0)
    return factorization("nmf-zeros", X, 6, (NonNegative(), NonNegative()), nmf_sparse_data, c)


def nmf_unbalanced(c: float) -> Problem:
    g = seeded("nmf-unbalanced")
    X = noisy((rand(g, 40, 5) ** 2 * torch.logspace(-1.5, 1.5, 5, dtype=torch.float64)) @ rand(g, 5, 50), g, 0.001)
    return factorization("nmf-unbalanced", X, 5, (NonNegative(), NonNegative()), nmf_unbalanced, c)


def nmf_missing(c: float) -> Problem:
    g = seeded("nmf-missing")
    X = noisy(rand(g, 40, 4) @ rand(g, 4, 40), g)
    seen = (rand(g, 40, 40) < 0.5).double()
    return factorization(
        "nmf-missing",
        X,
        4,
        (NonNegative(), NonNegative()),
        nmf_missing,
        c,
        family="missing data",
        loss=lambda Y: half_square(seen * (c * X - Y), 2),
    )


def mixture(c: float) -> Problem:
    g = seeded("mixture")
    X = noisy(shares(rand(g, 60, 4), -1) @ rand(g, 4, 40), g)
    proxs = (Simplex(dim=-1), NonNegative())
    return factorization("mixture", X, 4, proxs, mixture, c, "simplex factorization", 0.0, on_rows(2 * X.mean().item()))


def hardest_data(seed: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The badly unbalanced mixture with noise of 1 % and its start: everything from one generator, in this order."""
    g = torch.Generator().manual_seed(seed)
    S = rand(g, 5, 80) ** 3 * torch.logspace(-1.5, 1.5, 5, dtype=torch.float64)[:, None]
    A = shares(rand(g, 100, 5) ** 2, -1)
    Y = A @ S
    Y = Y + 0.01 * Y.std() * randn(g, *Y.shape)
    return Y, (shares(rand(g, 100, 5), -1), rand(g, 5, 80) * 2 * Y.mean())


def hardest(c: float, seed: int = 0) -> Problem:
    X, _ = hardest_data(seed)
    proxs = (Simplex(dim=-1), NonNegative())
    fit = on_rows(2 * X.mean().item())
    return factorization("mixture-unbalanced", X, 5, proxs, partial(hardest, seed=seed), c, "simplex factorization", 0.0, fit)


def unmixing(c: float) -> Problem:
    g = seeded("unmixing")
    X = noisy(rand(g, 50, 4).cumsum(0) @ shares(rand(g, 4, 60).pow(3), -2), g)
    fit = lambda A, S: (2 * X.mean().item() * A, shares(S, -2))  # noqa: E731
    return factorization("unmixing", X, 4, (NonNegative(), Simplex(dim=-2)), unmixing, c, "simplex factorization", 1.0, fit)


def topics(c: float) -> Problem:
    """Spectra that sum to one, few of them in each column."""
    g = seeded("sparse-nmf")
    X = noisy(shares(rand(g, 30, 5).pow(3), -2) @ (rand(g, 5, 50) * (rand(g, 5, 50) < 0.4)), g).clamp(min=0)
    lam = 0.02 * X.abs().max().item() * c
    proxs = (Simplex(dim=-2), NonNegative() + L1(lam))
    level = 60 * X.mean().item() / 5
    return factorization("sparse-nmf", X, 5, proxs, topics, c, "sparse factorization", 0.0, on_columns(level))


def dictionary(c: float) -> Problem:
    g = seeded("dictionary")
    D = randn(g, 20, 8)
    codes = randn(g, 8, 60) * (rand(g, 8, 60) < 0.3)
    X = noisy(D / torch.linalg.vector_norm(D, dim=0) @ codes, g, 0.05)
    proxs = (L2Ball(dim=-2), L1(0.05 * c))
    fit = lambda A, S: (A / torch.linalg.vector_norm(A, dim=-2, keepdim=True), 0.5 * S)  # noqa: E731
    return factorization("dictionary", X, 8, proxs, dictionary, c, "sparse factorization", 0.0, fit, how=randn)


def smooth_sources(c: float) -> Problem:
    g = seeded("smooth")
    t = torch.linspace(0, 1, 60, dtype=torch.float64)
    S = torch.stack([torch.exp(-(((t - at) / 0.12) ** 2)) for at in (0.2, 0.4, 0.6, 0.8)])
    X = noisy(shares(rand(g, 40, 4), -1) @ S, g, 0.2)
    return factorization(
        "smooth", X, 4, (Simplex(dim=-1), Smooth(dim=-1, lam=5.0)), smooth_sources, c, "smooth factorization", 0.0,
        on_rows(2 * X.abs().mean().item()),
    )  # fmt: skip


def steps(c: float) -> Problem:
    g = seeded("steps")
    S = randn(g, 3, 5).repeat_interleave(12, -1)
    X = noisy(shares(rand(g, 40, 3), -1) @ S, g, 0.2)
    proxs = (Simplex(dim=-1), TotalVariation(dim=-1, lam=0.5 * c))
    fit = on_rows(2 * X.abs().mean().item())
    return factorization("steps", X, 3, proxs, steps, c, "smooth factorization", 0.0, fit, how=randn_second)


def randn_second(g: Generator, *shape: int) -> Tensor:
    """Shares are drawn from [0, 1], sources of either sign from a Gaussian."""
    return rand(g, *shape) if shape[0] > shape[1] else randn(g, *shape)


def rising(c: float) -> Problem:
    g = seeded("rising")
    S = rand(g, 3, 40).pow(3).cumsum(-1)
    X = noisy(shares(rand(g, 50, 3), -1) @ S, g, 0.1)
    proxs = (Simplex(dim=-1), Isotonic(dim=-1))
    return factorization("rising", X, 3, proxs, rising, c, "smooth factorization", 0.0, on_rows(2 * X.abs().mean().item()))


def symmetric(c: float) -> Problem:
    g = seeded("symmetric")
    H = rand(g, 40, 4).pow(2)
    E = randn(g, 40, 40)
    X = H @ H.T + 0.02 * (H @ H.T).std() * (E + E.T) / 2**0.5
    return Problem(
        "symmetric-nmf", "factorization", False, (NonNegative(),),
        loss=lambda p: 0.5 * half_square(c * X - p[0] @ p[0].mT, 2),
        draw=drawn((40, 4)), fitted=times((X.mean().item()) ** 0.5), make=symmetric, scale=c, unit=(c**0.5,), height=c**2,
    )  # fmt: skip


def three_factors(c: float) -> Problem:
    g = seeded("three-factors")
    X = noisy(rand(g, 40, 4) @ rand(g, 4, 3) @ rand(g, 3, 30), g)
    level = (8 * X.mean().item() / 12) ** (1 / 3)
    u = c ** (1 / 3)
    return Problem(
        "three-factors", "factorization", False, (NonNegative(),) * 3,
        loss=lambda p: half_square(c * X - p[0] @ p[1] @ p[2], 2),
        draw=drawn((40, 4), (4, 3), (3, 30)), fitted=times(level, level, level), make=three_factors, scale=c,
        unit=(u, u, u), height=c**2,
    )  # fmt: skip


def kullback(X: Tensor, Y: Tensor, floor: float) -> Tensor:
    """Σ y + floor - x ln(y + floor), moved so that it is 0 where y + floor = x."""
    Z = Y + floor
    return (Z - X + torch.xlogy(X, X) - torch.xlogy(X, Z)).sum((-2, -1))


def kl(name: str, X: Tensor, make: Callable, c: float) -> Problem:
    k = 4
    proxs = (Simplex(dim=-2), NonNegative())
    level = 2 * X.sum(0).mean().item() / k
    return factorization(
        name, X, k, proxs, make, c, "Kullback-Leibler", 0.0, on_columns(level),
        loss=lambda Y: kullback(c * X, Y, 0.01 * c * X.mean().item()), power=1.0,
    )  # fmt: skip


def kl_nmf(c: float) -> Problem:
    g = seeded("kl-nmf")
    X = torch.poisson(20 * rand(g, 30, 4) @ rand(g, 4, 50), generator=g)
    return kl("kl-nmf", X, kl_nmf, c)


def kl_unbalanced(c: float) -> Problem:
    g = seeded("kl-unbalanced")
    rate = rand(g, 30, 4).pow(3) @ (rand(g, 4, 50).pow(3) * torch.logspace(0, 2.5, 4, dtype=torch.float64)[:, None])
    return kl("kl-unbalanced", torch.poisson(rate, generator=g), kl_unbalanced, c)


def logistic_factors(c: float) -> Problem:
    """Yes or no per cell; the scale is that of the link: A S · scale is what the sigmoid sees."""
    g = seeded("logistic-factors")
    P = torch.sigmoid(3 * randn(g, 30, 3) @ randn(g, 3, 40) / 3**0.5)
    sign = signs(rand(g, 30, 40) < P)
    u = c**-0.5
    return Problem(
        "logistic-factors", "factorization", False, (L2Squared(0.5 * c), L2Squared(0.5 * c)),
        loss=lambda p: -logsigmoid(sign * (c * (p[0] @ p[1]))).sum((-2, -1)),
        draw=drawn((30, 3), (3, 40), how=randn), fitted=times(0.5, 0.5), make=logistic_factors, scale=c, unit=(u, u),
    )  # fmt: skip


# ── convex: regressions, inverse problems ─────────────────────────────────────────────────────────────────────────────


def solved(build: Callable[[Any], tuple]) -> Callable[[], float]:
    """The optimum by cvxpy and Clarabel; ``build(cvxpy)`` gives the objective and the constraints."""

    def run() -> float:
        import cvxpy

        objective, constraints = build(cvxpy)
        problem = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        return float(problem.value)

    return run


def regression(
    name: str,
    Z: Tensor,
    prox: Prox,
    loss: Callable[[Tensor], Tensor],
    make: Callable[[float], Problem],
    c: float,
    reference: Callable | None,
    family: str,
    size: float = 1.0,
    convex: bool = True,
) -> Problem:
    """loss(c Z w) + prox(w), w of unit 1/c."""
    n = Z.shape[-1]
    return Problem(
        name, family, convex, (prox,), loss=lambda p: loss(c * (p[0] @ Z.T)), draw=drawn((n,), how=randn),
        fitted=times(size), make=make, scale=c, unit=(1 / c,), reference=solved(reference) if reference else None,
    )  # fmt: skip


def square_loss(y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda pred: half_square(pred - y, 1)


def lasso_on(name: str, Z: Tensor, y: Tensor, lam: float, make: Callable, c: float) -> Problem:
    lam *= (Z.T @ y).abs().max().item()

    def reference(cp: Any) -> tuple:
        w = cp.Variable(Z.shape[1])
        return 0.5 * cp.sum_squares(Z.numpy() @ w - y.numpy()) + lam * cp.norm1(w), []

    return regression(name, Z, L1(lam * c), square_loss(y), make, c, reference, "lasso")


def lasso(c: float) -> Problem:
    g = seeded("lasso")
    Z = features(g, 80, 120)
    return lasso_on("lasso", Z, noisy(Z @ sparse(g, 120, 10), g, 0.1), 0.1, lasso, c)


def lasso_ill(c: float) -> Problem:
    g = seeded("lasso-correlated")
    Z = features(g, 80, 60, 100.0)
    return lasso_on("lasso-correlated", Z, noisy(Z @ sparse(g, 60, 10), g, 0.05), 0.003, lasso_ill, c)


def lasso_units(c: float) -> Problem:
    g = seeded("lasso-units")
    Z = features(g, 80, 60, 1000.0, per_column=True)
    return lasso_on("lasso-units", Z, noisy(Z @ sparse(g, 60, 20), g, 0.05), 0.001, lasso_units, c)


def elastic_net(c: float) -> Problem:
    g = seeded("elastic-net")
    Z = features(g, 60, 100, 30.0)
    y = noisy(Z @ sparse(g, 100, 15), g, 0.1)
    l1, l2 = 0.02 * (Z.T @ y).abs().max().item(), 0.1

    def reference(cp: Any) -> tuple:
        w = cp.Variable(100)
        return 0.5 * cp.sum_squares(Z.numpy() @ w - y.numpy()) + l1 * cp.norm1(w) + l2 / 2 * cp.sum_squares(w), []

    return regression("elastic-net", Z, L1(l1 * c) + L2Squared(l2 * c**2), square_loss(y), elastic_net, c, reference, "lasso")


def logistic_on(name: str, Z: Tensor, lam: float, g: Generator, make: Callable, c: float) -> Problem:
    n = Z.shape[1]
    z = Z @ sparse(g, n, 10)
    sign = signs(rand(g, len(Z)) < torch.sigmoid(2 * z / z.std()))
    lam *= 0.5 * (Z.T @ sign).abs().max().item()

    def reference(cp: Any) -> tuple:
        w = cp.Variable(n)
        return cp.sum(cp.logistic(-cp.multiply(sign.numpy(), Z.numpy() @ w))) + lam * cp.norm1(w), []

    return regression(name, Z, L1(lam * c), lambda z: -logsigmoid(sign * z).sum(-1), make, c, reference, "sparse logistic")


def logistic(c: float) -> Problem:
    g = seeded("sparse-logistic")
    return logistic_on("sparse-logistic", features(g, 150, 60), 0.1, g, logistic, c)


def logistic_ill(c: float) -> Problem:
    g = seeded("logistic-correlated")
    return logistic_on("logistic-correlated", features(g, 120, 50, 100.0), 0.003, g, logistic_ill, c)


def logistic_intercept(c: float) -> Problem:
    """Two parameters of different units: the weights 1/c, the intercept 1."""
    g = seeded("logistic-intercept")
    Z = features(g, 150, 30) + 1.0
    sign = signs(rand(g, 150) < torch.sigmoid(Z @ sparse(g, 30, 6) - 2))
    lam = 2.0

    def reference(cp: Any) -> tuple:
        w, b = cp.Variable(30), cp.Variable()
        return cp.sum(cp.logistic(-cp.multiply(sign.numpy(), Z.numpy() @ w + b))) + lam * cp.norm1(w), []

    return Problem(
        "logistic-intercept", "sparse logistic", True, (L1(lam * c), Unconstrained()),
        loss=lambda p: -logsigmoid(sign * (c * (p[0] @ Z.T) + p[1])).sum(-1),
        draw=drawn((30,), (1,), how=randn), fitted=times(0.5, 0.5), make=logistic_intercept, scale=c, unit=(1 / c, 1.0),
        reference=solved(reference),
    )  # fmt: skip


def digits(c: float) -> Problem:
    """Three of the ten classes, 200 pictures of 8×8: softmax regression with few pixels."""
    X, y = load_digits(n_class=3, return_X_y=True)
    Z, label = torch.as_tensor(X[:200] / 16), torch.as_tensor(y[:200])
    lam = 0.5

    def loss(p: Params) -> Tensor:
        z = c * (Z @ p[0])
        right = z.gather(-1, label[:, None].expand(*z.shape[:-1], 1))
        return (z.logsumexp(-1) - right.squeeze(-1)).sum(-1)

    def reference(cp: Any) -> tuple:
        W = cp.Variable((64, 3))
        z = Z.numpy() @ W
        hot = torch.eye(3, dtype=torch.float64)[label].numpy()
        return cp.sum(cp.log_sum_exp(z, axis=1)) - cp.sum(cp.multiply(hot, z)) + lam * cp.sum(cp.abs(W)), []

    return Problem(
        "digits-softmax", "sparse logistic", True, (L1(lam * c),), loss=loss, draw=drawn((64, 3), how=randn),
        fitted=times(0.1), make=digits, scale=c, unit=(1 / c,), reference=solved(reference),
    )  # fmt: skip


def group_lasso(c: float) -> Problem:
    g = seeded("group-lasso")
    Z = features(g, 60, 40, 10.0)
    W = randn(g, 40, 5) * (torch.arange(40) < 8)[:, None]
    Y = noisy(Z @ W, g, 0.1)
    lam = 0.1 * torch.linalg.vector_norm(Z.T @ Y, dim=1).max().item()

    def reference(cp: Any) -> tuple:
        V = cp.Variable((40, 5))
        return 0.5 * cp.sum_squares(Z.numpy() @ V - Y.numpy()) + lam * cp.sum(cp.norm(V, 2, axis=1)), []

    return Problem(
        "group-lasso", "group lasso", True, (GroupLasso(dim=-1, lam=lam * c),),
        loss=lambda p: half_square(c * (Z @ p[0]) - Y, 2), draw=drawn((40, 5), how=randn), fitted=times(1.0),
        make=group_lasso, scale=c, unit=(1 / c,), reference=solved(reference),
    )  # fmt: skip


def group_logistic(c: float) -> Problem:
    g = seeded("group-logistic")
    Z = features(g, 120, 60, 30.0).reshape(120, 15, 4)
    W = randn(g, 15, 4) * (torch.arange(15) < 4)[:, None]
    z = torch.einsum("mgk,gk->m", Z, W)
    sign = signs(rand(g, 120) < torch.sigmoid(3 * z / z.std()))
    lam = 0.05 * 0.5 * torch.linalg.vector_norm(torch.einsum("mgk,m->gk", Z, sign), dim=1).max().item()

    def reference(cp: Any) -> tuple:
        V = cp.Variable((15, 4))
        pred = Z.reshape(120, 60).numpy() @ cp.vec(V, order="C")
        return cp.sum(cp.logistic(-cp.multiply(sign.numpy(), pred))) + lam * cp.sum(cp.norm(V, 2, axis=1)), []

    return Problem(
        "group-logistic", "group lasso", True, (GroupLasso(dim=-1, lam=lam * c),),
        loss=lambda p: -logsigmoid(sign * (c * (p[0].flatten(-2) @ Z.flatten(-2).T))).sum(-1),
        draw=drawn((15, 4), how=randn), fitted=times(0.5), make=group_logistic, scale=c, unit=(1 / c,),
        reference=solved(reference),
    )  # fmt: skip


def simplex_squares(c: float) -> Problem:
    """Shares of known parts in a signal: the scale multiplies parts and signal."""
    g = seeded("simplex-squares")
    Z = rand(g, 120, 80)
    y = noisy(Z @ shares(rand(g, 80).pow(6), 0), g, 0.05)

    def reference(cp: Any) -> tuple:
        w = cp.Variable(80)
        return 0.5 * cp.sum_squares(Z.numpy() @ w - y.numpy()), [w >= 0, cp.sum(w) == 1]

    return Problem(
        "simplex-squares", "simplex least squares", True, (Simplex(dim=-1),),
        loss=lambda p: half_square(c * (p[0] @ Z.T - y), 1), draw=drawn((80,)), fitted=lambda w: (shares(w, -1),),
        make=simplex_squares, scale=c, unit=(1.0,), height=c**2, reference=solved(reference),
    )  # fmt: skip


def portfolio(c: float) -> Problem:
    """½ wᵀΣw - μᵀw on the simplex, Σ of three factors and own variances that span four decades."""
    g = seeded("portfolio")
    B = randn(g, 50, 3)
    root = torch.cat([B, torch.diag(torch.logspace(-2, 0, 50, dtype=torch.float64))], 1)
    mu = 0.2 * rand(g, 50)

    def reference(cp: Any) -> tuple:
        w = cp.Variable(50)
        return 0.5 * cp.sum_squares(root.T.numpy() @ w) - mu.numpy() @ w, [w >= 0, cp.sum(w) == 1]

    return Problem(
        "portfolio", "simplex least squares", True, (Simplex(dim=-1),),
        loss=lambda p: c**2 * (half_square(p[0] @ root, 1) - p[0] @ mu), draw=drawn((50,)),
        fitted=lambda w: (shares(w, -1),), make=portfolio, scale=c, unit=(1.0,), height=c**2, reference=solved(reference),
    )  # fmt: skip


def nonneg_squares(c: float) -> Problem:
    """A deconvolution by a kernel as wide as the peaks: correlated features."""
    g = seeded("nonneg-squares")
    t = torch.arange(80, dtype=torch.float64)
    Z = torch.exp(-(((t[:, None] - t) / 3) ** 2))
    y = noisy(Z @ (rand(g, 80) * (rand(g, 80) < 0.15)), g, 0.01)

    def reference(cp: Any) -> tuple:
        w = cp.Variable(80)
        return 0.5 * cp.sum_squares(Z.numpy() @ w - y.numpy()), [w >= 0]

    return regression("nonneg-squares", Z, NonNegative(), square_loss(y), nonneg_squares, c, reference, "bounds", 0.3)


def box_squares(c: float) -> Problem:
    g = seeded("box-squares")
    Z = features(g, 60, 60, 30.0)
    y = noisy(Z @ (rand(g, 60) * 1.6 - 0.3).clamp(0, 1), g, 0.05)

    def reference(cp: Any) -> tuple:
        w = cp.Variable(60)
        return 0.5 * cp.sum_squares(Z.numpy() @ w - y.numpy()), [w >= 0, w <= 1]

    return regression("box-squares", Z, Box(0.0, 1 / c), square_loss(y), box_squares, c, reference, "bounds", 0.5)


def huber(c: float) -> Problem:
    g = seeded("huber")
    Z = features(g, 100, 40, 10.0)
    y = noisy(Z @ sparse(g, 40, 8), g, 0.1) + 20 * randn(g, 100) * (rand(g, 100) < 0.1)
    lam, delta = 2.0, 0.5

    def reference(cp: Any) -> tuple:
        w = cp.Variable(40)
        return 0.5 * cp.sum(cp.huber(Z.numpy() @ w - y.numpy(), delta)) + lam * cp.norm1(w), []

    def loss(pred: Tensor) -> Tensor:
        return huber_loss(pred, y.expand_as(pred), reduction="none", delta=delta).sum(-1)

    return regression("huber", Z, L1(lam * c), loss, huber, c, reference, "robust")


def isotonic_blur(c: float) -> Problem:
    g = seeded("isotonic-blur")
    K = blur(60, 2.0)
    y = noisy(K @ rand(g, 60).pow(8).cumsum(0), g, 0.05)

    def reference(cp: Any) -> tuple:
        w = cp.Variable(60)
        return 0.5 * cp.sum_squares(K.numpy() @ w - y.numpy()), [cp.diff(w) >= 0]

    return Problem(
        "isotonic-blur", "signals", True, (Isotonic(dim=-1),), loss=lambda p: half_square(p[0] @ K.T - c * y, 1),
        draw=drawn((60,)), fitted=times(2 * y.mean().item()), make=isotonic_blur, scale=c, unit=(c,), height=c**2,
        reference=solved(reference),
    )  # fmt: skip


def blur(n: int, width: float) -> Tensor:
    t = torch.arange(n, dtype=torch.float64)
    return shares(torch.exp(-0.5 * ((t[:, None] - t) / width) ** 2), -1)


def steps_blur(c: float) -> Problem:
    g = seeded("variation-blur")
    K = blur(80, 2.0)
    y = noisy(K @ randn(g, 8).repeat_interleave(10), g, 0.1)
    lam = 0.1

    def reference(cp: Any) -> tuple:
        w = cp.Variable(80)
        return 0.5 * cp.sum_squares(K.numpy() @ w - y.numpy()) + lam * cp.norm1(cp.diff(w)), []

    return Problem(
        "variation-blur", "signals", True, (TotalVariation(dim=-1, lam=lam * c),),
        loss=lambda p: half_square(p[0] @ K.T - c * y, 1), draw=drawn((80,), how=randn), fitted=times(1.0),
        make=steps_blur, scale=c, unit=(c,), height=c**2, reference=solved(reference),
    )  # fmt: skip


def completion(c: float) -> Problem:
    g = seeded("completion")
    X = noisy(randn(g, 15, 2) @ randn(g, 2, 18), g, 0.05)
    seen = (rand(g, 15, 18) < 0.5).double()
    lam = 0.5

    def reference(cp: Any) -> tuple:
        Y = cp.Variable((15, 18))
        return 0.5 * cp.sum_squares(cp.multiply(seen.numpy(), Y - X.numpy())) + lam * cp.normNuc(Y), []

    return Problem(
        "completion", "missing data", True, (Nuclear(lam * c),), loss=lambda p: half_square(seen * (p[0] - c * X), 2),
        draw=drawn((15, 18), how=randn), fitted=times(1.0), make=completion, scale=c, unit=(c,), height=c**2,
        reference=solved(reference),
    )  # fmt: skip


# ── nonconvex losses and penalties, small networks, physics ───────────────────────────────────────────────────────────


def phase(c: float) -> Problem:
    """¼ Σ((aᵢx)² - yᵢ)² with sparse x: only the squares of what is measured are seen. The scale multiplies the features."""
    g = seeded("phase")
    Z = randn(g, 120, 25)
    y = (Z @ sparse(g, 25, 6)).square()
    y = y * (1 + 0.05 * randn(g, 120))
    return regression(
        "phase", Z, L1(2.0 * c), lambda z: 0.25 * (z.square() - y).square().sum(-1), phase, c, None, "phase", 0.5, convex=False
    )


def phase_nonneg(c: float) -> Problem:
    """Amplitudes from intensities of a non-negative object: ½ Σ(√((aᵢx)² + ε²) - bᵢ)², ε a tenth of the mean b."""
    g = seeded("phase-nonneg")
    Z = randn(g, 100, 30)
    b = (Z @ (rand(g, 30) * (rand(g, 30) < 0.5))).abs()
    b = b + 0.02 * b.mean() * randn(g, 100).abs()
    eps = 0.1 * b.mean().item()

    def loss(z: Tensor) -> Tensor:
        return half_square((z.square() + eps**2).sqrt() - b, 1)

    return regression("phase-nonneg", Z, NonNegative(), loss, phase_nonneg, c, None, "phase", 1.0, convex=False)


def mcp(c: float) -> Problem:
    g = seeded("mcp")
    Z = features(g, 60, 80, 5.0)
    y = noisy(Z @ sparse(g, 80, 8), g, 0.1)
    lam = 0.1 * (Z.T @ y).abs().max().item()
    prox = MCP(lam * c, gamma=3 / (Z.square().sum(0).mean().item() * c**2))
    return regression("mcp", Z, prox, square_loss(y), mcp, c, None, "nonconvex penalty", convex=False)


def best_subset(c: float) -> Problem:
    g = seeded("best-subset")
    Z = features(g, 60, 80, 3.0)
    y = noisy(Z @ sparse(g, 80, 8), g, 0.1)
    return regression("best-subset", Z, TopK(dim=-1, k=8), square_loss(y), best_subset, c, None, "nonconvex penalty", convex=False)


def robust(c: float) -> Problem:
    """Σ ln(1 + r²): a loss that gives up on what is far away."""
    g = seeded("cauchy")
    Z = features(g, 100, 30, 10.0)
    y = noisy(Z @ sparse(g, 30, 8), g, 0.1) + 30 * randn(g, 100) * (rand(g, 100) < 0.2)
    prox = L1(1.0 * c)
    return regression("cauchy", Z, prox, lambda z: (z - y).square().log1p().sum(-1), robust, c, None, "robust", convex=False)


def network(c: float) -> Problem:
    """A hidden layer of 8 softplus units on 5 features, few of its weights; the scale multiplies the features."""
    g = seeded("network-l1")
    Z = randn(g, 150, 5)
    y = torch.sin(2 * Z[:, 0]) + Z[:, 1] * Z[:, 2] + 0.1 * randn(g, 150)

    def loss(p: Params) -> Tensor:
        W, b, v, d = p
        return half_square((softplus(c * (Z @ W) + b.unsqueeze(-2)) * v.unsqueeze(-2)).sum(-1) + d - y, 1)

    return Problem(
        "network-l1", "network", False, (L1(0.3 * c), Unconstrained(), L1(0.3), Unconstrained()), loss=loss,
        draw=drawn((5, 8), (8,), (8,), (1,), how=uniform_about_zero), fitted=lambda *p: p, make=network, scale=c,
        unit=(1 / c, 1.0, 1.0, 1.0),
    )  # fmt: skip


def uniform_about_zero(g: Generator, *shape: int) -> Tensor:
    """U(-1/√n, 1/√n), n = 5 inputs: how torch.nn.Linear begins."""
    return (2 * rand(g, *shape) - 1) / 5**0.5


def monotone_network(c: float) -> Problem:
    """A network whose weights are non-negative is monotone in each feature; a classifier, with cross-entropy."""
    g = seeded("network-nonneg")
    Z = randn(g, 150, 4)
    z = Z[:, 0].exp() + 2 * torch.tanh(2 * Z[:, 1]) + Z[:, 2] - 1.5
    sign = signs(rand(g, 150) < torch.sigmoid(2 * z))

    def loss(p: Params) -> Tensor:
        W, b, v, d = p
        hidden = torch.tanh(c * (Z @ W) + b.unsqueeze(-2))
        return -logsigmoid(sign * ((hidden * v.unsqueeze(-2)).sum(-1) + d)).sum(-1)

    proxs = (NonNegative(), L2Squared(0.1), NonNegative() + L2Squared(0.1), Unconstrained())
    return Problem(
        "network-nonneg", "network", False, proxs, loss=loss, draw=drawn((4, 6), (6,), (6,), (1,), how=uniform_about_zero),
        fitted=lambda *p: p, make=monotone_network, scale=c, unit=(1 / c, 1.0, 1.0, 1.0),
    )  # fmt: skip


def blind(c: float) -> Problem:
    """Blind deconvolution: a kernel on the simplex, sparse non-negative spikes, circular."""
    g = seeded("blind")
    kernel = torch.zeros(64, dtype=torch.float64)
    kernel[:9] = shares(rand(g, 9), 0)
    spikes = rand(g, 64) * (rand(g, 64) < 0.15)

    def convolved(k: Tensor, s: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(k, (0, 64 - k.shape[-1]))
        return torch.fft.irfft(torch.fft.rfft(wide) * torch.fft.rfft(s), n=64)

    y = noisy(convolved(kernel[:9], spikes), g, 0.02)
    proxs = (Simplex(dim=-1), NonNegative() + L1(0.005 * c))
    return Problem(
        "blind-deconvolution", "physics", False, proxs, loss=lambda p: half_square(convolved(*p) - c * y, 1),
        draw=drawn((9,), (64,)), fitted=lambda k, s: (shares(k, -1), 2 * y.mean().item() * s), make=blind, scale=c,
        unit=(1.0, c), height=c**2,
    )  # fmt: skip


def lines(c: float) -> Problem:
    """Four spectral lines: heights ≥ 0, centres and widths in boxes; the scale multiplies the spectrum."""
    g = seeded("lines")
    t = torch.linspace(0, 1, 120, dtype=torch.float64)

    def spectrum(height: Tensor, centre: Tensor, width: Tensor) -> Tensor:
        z = (t - centre.unsqueeze(-1)) / width.unsqueeze(-1)
        return (height.unsqueeze(-1) / (1 + z.square())).sum(-2)

    truth = (0.5 + rand(g, 4), torch.tensor([0.2, 0.42, 0.55, 0.8], dtype=torch.float64), 0.02 + 0.04 * rand(g, 4))
    y = noisy(spectrum(*truth), g, 0.05)
    proxs = (NonNegative(), Box(0.0, 1.0), Box(0.01, 0.2))
    return Problem(
        "lines", "physics", False, proxs, loss=lambda p: half_square(spectrum(*p) - c * y, 1),
        draw=lambda g: (rand(g, 4), rand(g, 4).sort().values, 0.05 + 0.05 * rand(g, 4)), fitted=lambda *p: p, make=lines,
        scale=c, unit=(c, 1.0, 1.0), height=c**2,
    )  # fmt: skip


MAKERS = (
    nmf, nmf_wide, nmf_sparse_data, nmf_unbalanced, symmetric, three_factors, logistic_factors, nmf_missing, completion,
    mixture, hardest, unmixing, topics, dictionary, smooth_sources, steps, rising, kl_nmf, kl_unbalanced,
    lasso, lasso_ill, lasso_units, elastic_net, logistic, logistic_ill, logistic_intercept, digits, group_lasso,
    group_logistic, simplex_squares, portfolio, nonneg_squares, box_squares, huber, robust, isotonic_blur, steps_blur,
    phase, phase_nonneg, mcp, best_subset, network, monotone_network, blind, lines,
)  # fmt: skip
PROBLEMS = {problem.name: problem for problem in (make(1.0) for make in MAKERS)}
