"""Mini-batches: ProxDoWG as it comes beside the best of nine rates of SGD + prox and Adam + prox, and other automatic steps.

Run it:  python benchmarks/optimizers/minibatch.py --starts 3      (about a quarter of an hour on one core)

All methods get 50 epochs. What counts is the loss of the whole data, with the penalty, at the point a method returns: the
rivals' last iterate, the others' average. The bar is F - F_rival <= .05 (F_rival - F*) + 1e-3 (F1 - F*), where F_rival is
the better of the two rivals, each at its best rate; F* is the best anybody reached from the same start at any scale, and
2,000 full proximal gradient steps from there; F1 is the smallest of F at the start, at its best rescaling and at 0.

The data scale multiplies the data, or the features where the targets have no scale, and the penalties so that the scaled
problem has the scaled solution. A "raw" start is the same whatever the scale. The rivals' rates are laid in the units of
the scaled problem, four decades of them, which no user could know: the strongest grid there is.
Every method but ProxDoWG runs all starts, scales and rates at once, with one row of a tensor for each.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from proxfactor import L1, GroupLasso, L2Squared, NonNegative, Prox, Simplex, Unconstrained
from proxfactor.optim.stochastic import ProxDoWG

EPOCHS = 50
SCALES = (1e-6, 1.0, 1e6)
SETTINGS = [("scaled", s) for s in SCALES] + [("raw", s) for s in SCALES]
RATES = np.logspace(-4, 0, 9)
TINY = 1e-300


# ── problems ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Factor:
    """One parameter: op(lam) is its operator, penalty(x) what lam multiplies, one number per run.

    At the data scale s the solution is s**power times that at scale 1, and the penalty s**weighs times; size is how large
    the entries of a start at scale 1 are to be, where draw makes them about 1.
    """

    draw: Callable[[np.random.Generator], np.ndarray]
    op: Callable[[float], Prox] = lambda lam: Unconstrained()
    lam: float = 0.0
    penalty: Callable[[Tensor], Tensor] | None = None
    power: float = 0.0
    weighs: float = 0.0
    size: float = 1.0

    def prox(self, x: Tensor, step: Tensor, s: Tensor) -> Tensor:
        return self.op(1.0)(x, step * spread(self.lam * s**self.weighs, x) if self.lam else step)


@dataclass
class Problem:
    """loss(params, batch, s) is the mean over a batch (None: all) of n terms, one number per run; it scales like s**grows."""

    name: str
    n: int
    batch: int
    factors: list[Factor]
    loss: Callable[[list[Tensor], Tensor | None, Tensor], Tensor]
    grows: float

    def value(self, params: list[Tensor], s: Tensor) -> Tensor:
        """F over s**grows, so that all scales compare."""
        total = self.loss(params, None, s)
        for factor, x in zip(self.factors, params, strict=True):
            if factor.penalty is not None:
                total = total + factor.lam * s**factor.weighs * factor.penalty(x)
        return torch.where(total.isfinite(), total, math.inf) / s**self.grows

    def gradients(self, params: list[Tensor], batch: Tensor | None, s: Tensor) -> tuple[Tensor, list[Tensor]]:
        leaves = [x.detach().requires_grad_() for x in params]
        value = self.loss(leaves, batch, s)
        return value.detach(), list(torch.autograd.grad(value.sum(), leaves))

    def batches(self, seed: int = 0) -> Iterator[Tensor]:
        shuffle = torch.Generator().manual_seed(seed)
        for _ in range(EPOCHS):
            order = torch.randperm(self.n, generator=shuffle)
            yield from order[: self.n - self.n % self.batch].split(self.batch)

    def starts(self, number: int, settings: list[tuple[str, float]]) -> tuple[list[Tensor], Tensor]:
        """Feasible starts, setting by setting, and their scales."""
        s = torch.tensor([scale for _, scale in settings for _ in range(number)], dtype=torch.float64)
        params = []
        for i, factor in enumerate(self.factors):
            draws = [factor.draw(np.random.default_rng([77, start, i])) for start in range(number)]
            sizes = [factor.size * scale**factor.power if kind == "scaled" else 1.0 for kind, scale in settings]
            x = torch.stack([tensor(draw) * size for size in sizes for draw in draws])
            params.append(factor.op(0.0)(x, 0.0) if factor.lam == 0 else x)
        return params, s

    def first(self, params: list[Tensor], s: Tensor) -> Tensor:
        """F1: the smallest of F at the start, at its best single rescaling, and at 0 where that is feasible."""
        cones = [factor.op(1.0).cone for factor in self.factors]
        best = self.value(params, s)
        for c in [*np.logspace(-14, 14, 561), *([0.0] if all(cones) else [])]:
            best = torch.minimum(best, self.value([x * c if cone else x for x, cone in zip(params, cones, strict=True)], s))
        return best


def tensor(a: np.ndarray) -> Tensor:
    return torch.as_tensor(a, dtype=torch.float64)


def spread(t: Tensor, x: Tensor) -> Tensor:
    """One number per run, in the shape that broadcasts to x."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda g: g.standard_normal(shape)


def uniform(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda g: g.random(shape)


def shares(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda g: (a := g.random(shape)) / a.sum(-1, keepdims=True)


def rows(M: Tensor, y: Tensor, data: float, target: float) -> Callable[[list[Tensor], Tensor | None, Tensor], Tensor]:
    """½|M w - y|² a row of M, M scaled by s**data and y by s**target."""

    def loss(params: list[Tensor], batch: Tensor | None, s: Tensor) -> Tensor:
        w = params[0].flatten(2) if params[0].ndim == 3 else params[0][..., None]
        a, b = (M, y) if batch is None else (M[batch], y[batch])
        r = (a @ w) * spread(s**data, w) - b.reshape(len(a), -1) * spread(s**target, w)
        return 0.5 * r.square().sum((1, 2)) / len(a)

    return loss


def cells(Y: Tensor, entry: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
    """The mean of entry(prediction, Y, s) over cells of a matrix, Y ≈ A S."""

    def loss(params: list[Tensor], batch: Tensor | None, s: Tensor) -> Tensor:
        A, S = params
        batch = torch.arange(Y.numel()) if batch is None else batch
        i, j = batch // Y.shape[1], batch % Y.shape[1]
        return entry((A[:, i] * S.mT[:, j]).sum(-1), Y.flatten()[batch], s[:, None]).mean(1)

    return loss


def noisy(y: Tensor, share: float, g: np.random.Generator) -> Tensor:
    return y + share * y.std() * tensor(g.standard_normal(tuple(y.shape)))


def regressions(seed: int) -> Iterator[Problem]:
    n, size = 640, 32
    g = np.random.default_rng([seed, 1])
    M = tensor(g.random((n, 30)))
    y = noisy(M @ tensor(g.dirichlet(np.full(30, 0.3))), 0.05, g)
    yield Problem("simplex least squares", n, size, [Factor(shares(30), lambda lam: Simplex(dim=-1))], rows(M, y, 1, 1), 2)

    g = np.random.default_rng([seed, 2])
    M = tensor(g.standard_normal((n, 80)) @ (np.eye(80) + 0.1 * g.standard_normal((80, 80))))
    y = noisy(M @ tensor(g.standard_normal(80) * (g.random(80) < 0.15)), 0.2, g)
    lam = 0.05 * float((M.T @ y / n).abs().max())
    yield Problem("lasso", n, size, [Factor(normal(80), L1, lam, lambda x: total(x.abs()), 1, 1)], rows(M, y, 0, 1), 2)

    g = np.random.default_rng([seed, 3])
    D = tensor(g.standard_normal((n, 60)) * np.exp(0.7 * g.standard_normal(60)))
    odds = torch.sigmoid(D @ tensor(2 * g.standard_normal(60) * (g.random(60) < 0.2)))
    sign = 2 * (tensor(g.random(n)) < odds).double() - 1
    lam = 0.03 * float((D.T @ sign / (2 * n)).abs().max())

    def logistic(params: list[Tensor], batch: Tensor | None, s: Tensor) -> Tensor:
        a, b = (D, sign) if batch is None else (D[batch], sign[batch])
        return softplus(-(params[0] @ a.T) * s[:, None] * b).mean(1)

    yield Problem("sparse logistic", n, size, [Factor(normal(60), L1, lam, lambda x: total(x.abs()), -1, 1)], logistic, 0)

    g = np.random.default_rng([seed, 4])
    M = tensor(g.random((n, 30)) * np.logspace(-1.5, 1.5, 30)[g.permutation(30)])
    y = noisy(M @ tensor(g.random(30) * (g.random(30) < 0.5)), 0.1, g)
    yield Problem("nonneg, bad columns", n, size, [Factor(uniform(30), lambda lam: NonNegative(), power=1)], rows(M, y, 0, 1), 2)

    g = np.random.default_rng([seed, 5])
    M = tensor(g.standard_normal((n, 40)))
    y = noisy(M @ tensor(g.standard_normal((40, 5)) * (g.random((40, 1)) < 0.2)), 0.3, g)
    lam = 0.1 * float((M.T @ y / n).norm(dim=1).max())
    group = Factor(normal(40, 5), lambda lam: GroupLasso(-1, lam), lam, lambda x: x.norm(dim=-1).sum(-1), 1, 1)
    yield Problem("group lasso", n, size, [group], rows(M, y, 0, 1), 2)


def factorizations(seed: int) -> Iterator[Problem]:
    g = np.random.default_rng([seed, 6])
    m, n, k = 40, 200, 4
    X = noisy(tensor(g.random((m, k)) ** 2 @ g.random((k, n))), 0.05, g)

    def columns(params: list[Tensor], batch: Tensor | None, s: Tensor) -> Tensor:
        A, S = params
        S, x = (S, X) if batch is None else (S[:, :, batch], X[:, batch])
        return 0.5 * (A @ S - x * s[:, None, None]).square().mean((1, 2))

    def nonneg(*shape: int, size: float, power: float = 0.5) -> Factor:
        return Factor(uniform(*shape), lambda lam: NonNegative(), power=power, size=size)

    size = math.sqrt(4 * float(X.mean()) / k)
    yield Problem("nonneg MF, by columns", n, 10, [nonneg(m, k, size=size), nonneg(k, n, size=size)], columns, 2)

    g = np.random.default_rng([seed, 7])
    m, n, k = 60, 50, 4
    S, A = g.random((k, n)) ** 3 * np.logspace(-1, 1, k)[:, None], g.random((m, k)) ** 2
    Y = noisy(tensor(A / A.sum(1, keepdims=True) @ S), 0.01, g)
    mixture = Factor(shares(m, k), lambda lam: Simplex(dim=-1))
    square = cells(Y, lambda p, y, s: 0.5 * (p - y * s).square())
    yield Problem("unmixing, by cells", m * n, 150, [mixture, nonneg(k, n, size=2 * float(Y.mean()), power=1)], square, 2)

    g = np.random.default_rng([seed, 8])
    m, n, k = 50, 60, 4
    counts = tensor(g.poisson(5 * g.gamma(0.5, 1, (m, k)) @ g.gamma(0.5, 1, (k, n))))
    dark = 0.05 * float(counts.mean())

    def divergence(p: Tensor, y: Tensor, s: Tensor) -> Tensor:
        p, y = p + dark * s, y * s
        return p - y - y * (p.log() - (y + (y == 0)).log())

    size = math.sqrt(4 * float(counts.mean()) / k)
    poisson = cells(counts, divergence)
    yield Problem("Poisson MF, by cells", m * n, 150, [nonneg(m, k, size=size), nonneg(k, n, size=size)], poisson, 1)

    g = np.random.default_rng([seed, 9])
    m, n, k = 50, 60, 3
    odds = torch.sigmoid(tensor(g.standard_normal((m, k)) @ g.standard_normal((k, n))))
    sign = 2 * (tensor(g.random((m, n))) < odds).double() - 1
    ridge = [Factor(normal(*shape), L2Squared, 2e-4, lambda x: total(0.5 * x.square())) for shape in ((m, k), (k, n))]
    yield Problem("logistic MF, by cells", m * n, 150, ridge, cells(sign, lambda p, y, s: softplus(-y * p)), 0)


def networks(seed: int) -> Iterator[Problem]:
    digits, hidden = load_digits(), 24
    pick = np.random.default_rng([seed, 10]).permutation(1797)[:960]
    X, label = tensor(digits.data[pick] / 16), torch.as_tensor(digits.target[pick])

    def loss(params: list[Tensor], batch: Tensor | None, s: Tensor) -> Tensor:
        W, b, V, c = params
        x, t = (X, label) if batch is None else (X[batch], label[batch])
        out = torch.relu((x @ W) * s[:, None, None] + b[:, None]) @ V + c[:, None]
        return cross_entropy(out.flatten(0, 1), t.repeat(len(out)), reduction="none").reshape(len(out), -1).mean(1)

    def within(bound: float, *shape: int) -> Callable[[np.random.Generator], np.ndarray]:
        return lambda g: (2 * g.random(shape) - 1) * bound

    def sparse(draw: Callable, power: float) -> Factor:
        return Factor(draw, L1, 3e-4, lambda x: total(x.abs()), power, -power)

    first, last = within(64**-0.5, 64, hidden), within(hidden**-0.5, hidden, 10)
    biases = Factor(within(64**-0.5, hidden)), Factor(within(hidden**-0.5, 10))
    yield Problem("network, l1", 960, 32, [sparse(first, -1), biases[0], sparse(last, 0), biases[1]], loss, 0)
    positive = Factor(lambda g: np.abs(first(g)), lambda lam: NonNegative(), power=-1)
    yield Problem("network, nonneg", 960, 32, [positive, biases[0], Factor(last), biases[1]], loss, 0)


def problems(seed: int) -> list[Problem]:
    return [*regressions(seed), *factorizations(seed), *networks(seed)]


# ── the grid-tuned rivals ─────────────────────────────────────────────────────────────────────────────────────────────


def rival(problem: Problem, params: list[Tensor], s: Tensor, adam: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    """Values and points at each run's best rate, and whether that rate is at the grid's end."""
    runs, k = len(s), len(RATES)
    rate = tensor(RATES).repeat_interleave(runs)
    rate = rate if adam else rate * 30 / curvature(problem)
    s = s.repeat(k)
    xs = [x.repeat(k, *[1] * (x.ndim - 1)) for x in params]
    means, squares = [torch.zeros_like(x) for x in xs], [torch.zeros_like(x) for x in xs]
    for t, batch in enumerate(problem.batches(), 1):
        _, grads = problem.gradients(xs, batch, s)
        for i, (factor, x, g) in enumerate(zip(problem.factors, xs, grads, strict=True)):
            if adam:
                step = spread(rate * s**factor.power, x) * factor.size
                means[i] += 0.1 * (g - means[i])
                squares[i] += 0.001 * (g * g - squares[i])
                x = x - step * means[i] / (1 - 0.9**t) / ((squares[i] / (1 - 0.999**t)).sqrt() + TINY)
            else:
                step = spread(rate * s ** (2 * factor.power - problem.grows), x)
                x = x - step * g
            xs[i] = factor.prox(torch.where(x.abs() < 1e100, x, 0.0), step, s)
    values = problem.value(xs, s).reshape(k, runs)
    best = values.argmin(0)
    points = [x.reshape(k, runs, *x.shape[1:])[best, torch.arange(runs)] for x in xs]
    return values.amin(0), points, (best == 0) | (best == k - 1)


def curvature(problem: Problem) -> float:
    """The Hessian's norm at a scaled start, by eight power steps."""
    xs, s = problem.starts(1, [("scaled", 1.0)])
    g = problem.gradients(xs, None, s)[1]
    h = 1e-4 * norm(xs)
    along, size = [a / norm(g) for a in g], 0.0
    for _ in range(8):
        moved = problem.gradients([x + h * a for x, a in zip(xs, along, strict=True)], None, s)[1]
        change = [(a - b) / h for a, b in zip(moved, g, strict=True)]
        size = norm(change)
        along = [a / size for a in change]
    return size


def norm(xs: list[Tensor]) -> float:
    return math.sqrt(sum(float(x.square().sum()) for x in xs))


# ── other automatic steps, at their authors' defaults ─────────────────────────────────────────────────────────────────


class Method:
    """All runs at once; ``average`` has weights like t⁸, as DoG's authors use."""

    averages = True

    def __init__(self, problem: Problem, params: list[Tensor], s: Tensor):
        self.problem, self.s, self.t = problem, s, 0
        self.x = [x.clone() for x in params]
        self.start, self.average = params, params
        self.m, self.v = [torch.zeros_like(x) for x in params], [torch.zeros_like(x) for x in params]

    def points(self) -> list[Tensor]:
        return self.x

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        raise NotImplementedError

    def move(self, sizes: list[Tensor], grads: list[Tensor], weights: list[Tensor] | None = None) -> None:
        given = zip(self.problem.factors, self.x, sizes, grads, weights or sizes, strict=True)
        self.x = [factor.prox(x - size * g, weight, self.s) for factor, x, size, g, weight in given]

    def run(self) -> list[Tensor]:
        for batch in self.problem.batches():
            self.t += 1
            self.step(*self.problem.gradients(self.points(), batch, self.s))
            c = 9 / (self.t + 8)
            self.average = [a + c * (x - a) for a, x in zip(self.average, self.x, strict=True)]
        return self.average if self.averages else self.x

    def dot(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return sum((total(p * q) for p, q in zip(a, b, strict=True)), torch.zeros(len(self.s), dtype=torch.float64))

    def alike(self, size: Tensor) -> list[Tensor]:
        return [spread(size, x) for x in self.x]

    def adam(self, grads: list[Tensor], beta: float = 0.9) -> list[Tensor]:
        """Moments taken, and √v̂."""
        self.m = [m + (1 - beta) * (g - m) for m, g in zip(self.m, grads, strict=True)]
        self.v = [v + 0.001 * (g * g - v) for v, g in zip(self.v, grads, strict=True)]
        return [(v / (1 - 0.999**self.t)).sqrt() + TINY for v in self.v]


class DoG(Method):
    """Ivgi, Hinder and Carmon 2023, one distance for all tensors; its first guess relative to the start, as it has to be."""

    def __init__(self, *given):
        super().__init__(*given)
        self.far, self.sum = 1e-12 * self.dot(self.x, self.x), torch.zeros_like(self.s)

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        away = [x - x0 for x, x0 in zip(self.x, self.start, strict=True)]
        self.far = torch.maximum(self.far, self.dot(away, away))
        self.sum = self.sum + self.dot(grads, grads)
        self.move(self.alike((self.far / (self.sum + TINY)).sqrt()), grads)


class Polyak(Method):
    """The stochastic Polyak step with the lower bound 0, then the prox (after Schaipp, Gower and Ulbrich 2023)."""

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        self.move(self.alike(loss / (self.dot(grads, grads) + TINY)), grads)


class MoMo(Method):
    """Schaipp, Ohana, Eickenberg, Defazio and Gower 2024, with the lower bound 0 and lr 1, then the prox."""

    averages, lr, metric = False, 1.0, False

    def __init__(self, *given):
        super().__init__(*given)
        self.f, self.gamma = torch.zeros_like(self.s), torch.zeros_like(self.s)

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        scale = self.adam(grads) if self.metric else [torch.ones_like(x) for x in self.x]
        if not self.metric:
            self.m = [m + 0.1 * (g - m) for m, g in zip(self.m, grads, strict=True)]
        self.f = self.f + 0.1 * (loss - self.f)
        self.gamma = self.gamma + 0.1 * (self.dot(grads, self.x) - self.gamma)
        seen, size = 1 - 0.9**self.t, self.dot([m / d for m, d in zip(self.m, scale, strict=True)], self.m)
        tau = ((self.f + self.dot(self.m, self.x) - self.gamma).clamp(min=0) / (size + TINY)).clamp(max=self.lr / seen)
        sizes = [spread(tau, d) / d for d in scale]
        self.move(sizes, self.m, [seen * a for a in sizes])


class MoMoAdam(MoMo):
    """The same in Adam's metric, with its lr 1e-2."""

    lr, metric = 1e-2, True


class ScheduleFree(Method):
    """Defazio et al. 2024: AdamW's form with its lr 2.5e-3, the prox on z in Adam's metric."""

    averages = False

    def __init__(self, *given):
        super().__init__(*given)
        self.z = self.x

    def points(self) -> list[Tensor]:
        return [0.1 * z + 0.9 * x for z, x in zip(self.z, self.x, strict=True)]

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        kept, scale = self.x, self.adam(grads)
        self.x = self.z
        self.move([2.5e-3 / d for d in scale], grads)
        self.z, self.x = self.x, [x + (z - x) / self.t for x, z in zip(kept, self.x, strict=True)]


class Prodigy(Method):
    """Mishchenko and Defazio 2023, the prox in Adam's metric; its first guess relative to the start; averaged."""

    def __init__(self, *given):
        super().__init__(*given)
        self.d = 1e-6 * (self.dot(self.x, self.x) / sum(x[0].numel() for x in self.x)).sqrt()
        self.r, self.sums = torch.zeros_like(self.s), [torch.zeros_like(x) for x in self.x]

    def step(self, loss: Tensor, grads: list[Tensor]) -> None:
        d, slow = self.d, 0.999**0.5
        away = [x0 - x for x, x0 in zip(self.x, self.start, strict=True)]
        self.r = slow * self.r + (1 - slow) * d * d * self.dot(grads, away)
        scaled = [spread(d, g) * g for g in grads]
        scale = self.adam(scaled)
        self.sums = [slow * a + (1 - slow) * spread(d, g) * g for a, g in zip(self.sums, scaled, strict=True)]
        reach = self.dot([a.abs() for a in self.sums], [torch.ones_like(a) for a in self.sums])
        self.d = torch.maximum(d, torch.where(reach > 0, self.r / (reach + TINY), 0.0))
        sizes = [spread(d, a) / a for a in scale]
        self.move(sizes, [m / (1 - 0.9**self.t) for m in self.m], [spread(d, a) * a for a in sizes])


METHODS = {
    "DoG": DoG,
    "Polyak + prox": Polyak,
    "MoMo + prox": MoMo,
    "MoMo-Adam + prox": MoMoAdam,
    "schedule-free": ScheduleFree,
    "Prodigy + prox": Prodigy,
}


# ── ours, one run after the other ─────────────────────────────────────────────────────────────────────────────────────


def ours(problem: Problem, params: list[Tensor], s: Tensor) -> list[Tensor]:
    ends = [one(problem, [x[i : i + 1] for x in params], s[i : i + 1]) for i in range(len(s))]
    return [torch.cat(list(x)) for x in zip(*ends, strict=True)]


def one(problem: Problem, params: list[Tensor], s: Tensor) -> list[Tensor]:
    xs = [torch.nn.Parameter(x.clone()) for x in params]
    ops = [f.op(f.lam * float(s) ** f.weighs) for f in problem.factors]
    optimizer = ProxDoWG([{"params": [x], "prox": op} for x, op in zip(xs, ops, strict=True)])
    for batch in problem.batches():
        optimizer.zero_grad()
        problem.loss(xs, batch, s).sum().backward()
        optimizer.step()
    optimizer.eval()
    return [x.detach() for x in xs]


# ── the reference and the table ───────────────────────────────────────────────────────────────────────────────────────


def polished(problem: Problem, params: list[Tensor], s: Tensor, steps: int = 2000) -> Tensor:
    """The values after accelerated proximal gradients on all data, each run with its own backtracked step and restarts."""
    xs = ys = params
    g = problem.gradients(xs, None, s)[1]
    size = sum(total(x.square()) for x in xs).sqrt() / (sum(total(a.square()) for a in g).sqrt() + TINY) + TINY
    best, t = problem.value(xs, s), torch.ones_like(s)
    for _ in range(steps):
        f, g = problem.gradients(ys, None, s)
        size = 1.2 * size
        for _ in range(60):
            move = zip(problem.factors, ys, g, strict=True)
            zs = [factor.prox(y - spread(size, y) * a, spread(size, y), s) for factor, y, a in move]
            gain = sum(total(a * (z - y)) for a, z, y in zip(g, zs, ys, strict=True))
            far = sum(total((z - y).square()) for z, y in zip(zs, ys, strict=True))
            fits = problem.loss(zs, None, s) <= f + gain + far / (2 * size) + 1e-14 * f.abs()
            if fits.all():
                break
            size = torch.where(fits, size, size / 2)
        value = problem.value(zs, s)
        worse = ~(value <= best)
        t = torch.where(worse, 1.0, t)
        later = (1 + (1 + 4 * t * t).sqrt()) / 2
        push = torch.where(worse, 0.0, (t - 1) / later)
        ys = [torch.where(spread(worse, z), x, z + spread(push, z) * (z - x)) for z, x in zip(zs, xs, strict=True)]
        xs = [torch.where(spread(worse, z), x, z) for z, x in zip(zs, xs, strict=True)]
        t, best = torch.where(worse, 1.0, later), torch.where(worse, best, value)
    return best


def measure(problem: Problem, starts: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Of each method, by setting: the share of starts that meets the bar and the median gap; and the rivals' share of best
    rates at the end of their grid."""
    params, s = problem.starts(starts, SETTINGS)
    tuned = [rival(problem, params, s, adam) for adam in (False, True)]
    best = torch.minimum(tuned[0][0], tuned[1][0])
    edge = torch.where(tuned[0][0] <= tuned[1][0], tuned[0][2], tuned[1][2])
    points = {"ProxDoWG": ours(problem, params, s)}
    points |= {name: method(problem, params, s).run() for name, method in METHODS.items()}
    values = {name: problem.value(x, s) for name, x in points.items()}
    ends = [tuned[0][:2], tuned[1][:2], *((values[name], x) for name, x in points.items())]
    lowest = torch.stack([value for value, _ in ends]).reshape(-1, starts).argmin(0)  # of each start, any method and setting
    method, run = lowest // len(SETTINGS), lowest % len(SETTINGS) * starts + torch.arange(starts)
    pairs = list(zip(method.tolist(), run.tolist(), strict=True))
    top = [torch.stack([ends[m][1][i][r] for m, r in pairs]) for i in range(len(params))]
    least = polished(problem, top, s[run]).repeat(len(SETTINGS))
    span = problem.first(params, s) - least
    out = {}
    for name, value in {"best-tuned rival": best, **values}.items():
        met = value - best <= 0.05 * (best - least) + 1e-3 * span
        gap = (value - least) / span
        out[name] = met.double().reshape(-1, starts).mean(1), gap.reshape(-1, starts).median(1).values
    return out, float(edge.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--only", default="", help="part of a problem's name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    heads = [f"{kind} {scale:g}" for kind, scale in SETTINGS]
    met: dict[str, list[Tensor]] = {}
    for problem in problems(args.seed):
        if args.only not in problem.name:
            continue
        measured, edge = measure(problem, args.starts)
        title = f"{problem.name}: share that meets the bar, median gap (best rates at the grid's end: {edge:.0%})"
        table = Table("method", *heads, title=title, box=None)
        for name, (share, gap) in measured.items():
            table.add_row(name, *(f"{a:4.0%}  {b:.0e}" for a, b in zip(share.tolist(), gap.tolist(), strict=True)))
            met.setdefault(name, []).append(share)
        console.print(table, "")
    table = Table("method", *heads, "all", title="share of all runs that meets the bar", box=None)
    for name, each in met.items():
        mean = torch.stack(each).mean(0)
        table.add_row(name, *(f"{a:.0%}" for a in mean.tolist()), f"{float(mean.mean()):.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
