"""Archetypes: the data as mixtures of a few extreme points, which are mixtures of the data themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fit import give_back
from .inits import uniforms
from .matrix import Dense, Matrix, as_table
from .problem import Quadratic
from .prox import Box, Prox, Simplex
from .solvers import APG

ROWS, COLUMNS = Simplex(dim=1), Simplex(dim=0)


@dataclass(eq=False)
class Archetypes:
    """X ≈ A Z with Z = B X: ``archetypes`` Z (k, n), ``weights`` A (m, k) and ``mixtures`` B (k, m), their rows shares.

    ``history`` has a row for each look: iteration, error, certificate_A, certificate_B. ``error`` is |X - A Z| / |X - mean|,
    ``certificate`` how far from stationary A and B are, as in ``Problem.certificate``, ``status`` says how it ended.
    """

    parts: tuple[Tensor, Tensor, Tensor]
    history: list[dict[str, float]]
    converged: bool
    status: str
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None
    form: Any = field(default="numpy", repr=False)

    @property
    def error(self) -> float:
        return self.history[-1]["error"]

    @property
    def certificate(self) -> float:
        return max(self.history[-1]["certificate_A"], self.history[-1]["certificate_B"])

    @cached_property
    def names(self) -> list[str]:
        return [str(q + 1) for q in range(self.parts[0].shape[1])]

    @cached_property
    def weights(self) -> Any:
        return give_back(self.parts[0], self.form, self.rows, self.names)

    @cached_property
    def mixtures(self) -> Any:
        return give_back(self.parts[1], self.form, self.names, self.rows)

    @cached_property
    def archetypes(self) -> Any:
        return give_back(self.parts[2], self.form, self.names, self.cols)

    @torch.no_grad()
    def transform(self, X: Any) -> Any:
        """The weights of other rows, (rows, k): the point of the archetypes' hull nearest to each. Columns go by name."""
        table = as_table(X).with_columns(self.cols)
        Z = self.parts[2]
        if table.matrix.shape[1] != Z.shape[1]:
            raise ValueError(f"X has {table.matrix.shape[1]} columns, the archetypes have {Z.shape[1]}; give the same columns")
        data = _Centred(_complete(table.matrix.to(Z.device, Z.dtype)), Z.mean(0))
        return give_back(_nearest(data, Z.mT - data.mean[:, None]), table.form, table.rows, self.names)

    def __repr__(self) -> str:
        m, k, n = len(self.parts[0]), *self.parts[2].shape
        return f"Archetypes({m} x {n}, {k} archetypes, error {self.error:.4g}: {self.status})"


@torch.no_grad()
def archetypal_analysis(X: Any, k: int, *, seed: int = 0, tol: float = 1e-4, max_iter: int = 1000) -> Archetypes:
    """minimise over A (m, k), B (k, m), rows of both on the simplex:  ½ |X - A B X|².

    The archetypes B X lie in the convex hull of the rows of X, as far out as they can. A sweep lowers A by accelerated steps
    (``APG``), then B by exchanges between the row of X that an archetype would best lose and the one it would best gain, as
    far as the exact minimum. Both need products of X with thin matrices and nothing else, so that sparse data stays sparse; data
    are taken from their mean, which changes no value and betters the curvature. The start is by furthest sum, from a row that
    ``seed`` draws; ``tol`` is the certificate to reach, in at most ``max_iter`` sweeps. (Cutler and Breiman 1994; the start: Mørup
    and Hansen 2012; the exchanges: Lacoste-Julien and Jaggi 2015.) Raises ValueError for data with holes or weights.

    >>> corners = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]
    >>> found = archetypal_analysis([*corners, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5]], 3)
    >>> found.archetypes.round(3)[found.archetypes.sum(1).argsort()][0] + 0.0
    array([0., 0.])
    """
    table = as_table(X)
    matrix = _complete(table.matrix)
    if not isinstance(tol, int | float) or not 0 < tol < 1 or isinstance(max_iter, bool) or not max_iter >= 1:
        raise ValueError(f"tol is {tol!r} and max_iter {max_iter!r}; tol lies between 0 and 1, max_iter is at least 1")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= matrix.shape[0]:
        raise ValueError(f"k is {k!r}; it is the number of archetypes, a whole number from 1 to the {matrix.shape[0]} rows of X")
    data = _Centred(matrix, _mean(matrix))
    Bt = torch.zeros(matrix.shape[0], int(k), dtype=matrix.dtype, device=matrix.device)
    Bt[_furthest(data, int(k), seed), torch.arange(int(k), device=Bt.device)] = 1.0
    hull = _Hull(data, Bt)
    history: list[dict[str, float]] = []
    at, worst = 0, math.inf
    while worst > tol and at < max_iter:
        for _ in range(min(1 + at // 10, max_iter - at)):
            hull.sweep()
            at += 1
        if (worst := hull.look(history, at)) <= tol or at == max_iter:
            hull.A = _nearest(data, hull.Zt)  # what transform gives
            worst = hull.look(history, at)
    way = ("Converged", "at or below") if worst <= tol else ("Not converged", "above")
    status = f"{way[0]} after {at} iterations: certificate {worst:.2g}, {way[1]} tol {tol:g}."
    parts = hull.A, hull.Bt.mT.contiguous(), (hull.Zt + data.mean[:, None]).mT.contiguous()
    return Archetypes(parts, history, worst <= tol, status, table.rows, table.cols, table.form)


class _Centred:
    """The rows of X less a point: products with it, and nothing dense is made of sparse data."""

    def __init__(self, X: Matrix, mean: Tensor):
        self.mean, self.shift = mean, mean
        if isinstance(X, Dense):
            X, self.shift = Dense._of(X.entries() - mean), torch.zeros_like(mean)
        self.X = X

    def rows(self, V: Tensor) -> Tensor:
        """X V, (m, k)."""
        return self.X @ V - self.shift @ V

    def cols(self, U: Tensor) -> Tensor:
        """Xᵀ U, (n, k)."""
        return self.X.T @ U - self.shift[:, None] * U.sum(0)

    @cached_property
    def squares(self) -> Tensor:
        """|x_i|² of each row, (m,)."""
        plain = self.X.sums(self.X.entries().square())
        return (plain - 2 * (self.X @ self.shift[:, None])[:, 0] + self.shift.square().sum()).clamp(min=0)


class _Hull:
    """Where the iteration stands: A (m, k), Bᵀ (m, k), and Zᵀ = Xᵀ Bᵀ (n, k), the archetypes as columns."""

    def __init__(self, data: _Centred, Bt: Tensor):
        self.data, self.Bt, self.Zt = data, Bt, data.cols(Bt)
        self.A = _nearest(data, self.Zt)

    def sweep(self) -> None:
        self.A = APG(inner=15).rows(ROWS, _weights_of(self.data, self.Zt), self.A, {})
        S, P = self.A.mT @ self.A, self.data.cols(self.A)
        for _ in range(2):
            self._exchange(S, P)

    def _exchange(self, S: Tensor, P: Tensor) -> None:
        """Each archetype gives of its share of one row to another row, where that pays most; how much, all decide together."""
        slope, Bt = self.data.rows(self.Zt @ S - P), self.Bt
        to = slope.argmin(0, keepdim=True)
        by = torch.where(Bt > 0, slope, -torch.inf).argmax(0, keepdim=True)
        gain, most = (slope.gather(0, by) - slope.gather(0, to)).clamp(min=0), Bt.gather(0, by)
        swap = torch.zeros_like(Bt).scatter_(0, to, 1.0).scatter_add_(0, by, -torch.ones_like(most))
        move = self.data.cols(swap)
        shares = APG(inner=20).rows(Box(0.0, most), Quadratic(S * (move.mT @ move), gain), torch.zeros_like(most), {})
        self.Bt, self.Zt = (Bt + shares * swap).clamp(min=0), self.Zt + shares * move

    def look(self, history: list[dict[str, float]], at: int) -> float:
        """The worse certificate; a row of the history, in place of one for the same iteration."""
        S, P = self.A.mT @ self.A, self.data.cols(self.A)
        slope = self.data.rows(self.Zt @ S - P)
        q = _weights_of(self.data, self.Zt)
        whole = self.data.squares.double().sum()
        left = whole + 2 * q.value(self.A).sum()
        certificates = (
            _residual(ROWS, self.A, q.grad(self.A), q.diag),
            _residual(COLUMNS, self.Bt, slope, self.data.squares[:, None] * S.diagonal()),
        )
        error = torch.where(whole > 0, (left.clamp(min=0) / whole).sqrt(), 0.0)
        e, a, b = torch.stack([error, *certificates]).tolist()
        if history and history[-1]["iteration"] == at:
            history.pop()
        history.append({"iteration": at, "error": e, "certificate_A": a, "certificate_B": b})
        return max(a, b)


def _weights_of(data: _Centred, Zt: Tensor) -> Quadratic:
    """½ |X - A Z|² as a Quadratic in A."""
    return Quadratic(Zt.mT @ Zt, data.rows(Zt))


def _nearest(data: _Centred, Zt: Tensor) -> Tensor:
    """The weights of the point of the hull of Z nearest to each row, from equal weights on: the archetypes alone decide."""
    q = _weights_of(data, Zt)
    A = torch.full_like(q.C, 1 / Zt.shape[1])
    for _ in range(40):
        A = APG(inner=50).rows(ROWS, q, A, {})
        if bool(_residual(ROWS, A, q.grad(A), q.diag) <= max(1e-9, 10 * torch.finfo(A.dtype).eps)):
            break
    return A


def _residual(prox: Prox, F: Tensor, slope: Tensor, D: Tensor) -> Tensor:
    """The certificate of one block, as ``Problem.stationarity`` has it."""
    D = D.expand(F.shape)
    D = torch.where(D > 0, D, D.mean())
    safe = torch.where(D > 0, D, 1.0)
    R = (F - prox(F - slope / safe, 1 / safe)).double() * safe.double().sqrt()
    top, size = R.square().sum(0), (F.double().square() * safe.double()).sum(0)
    size = torch.maximum(size, 1e-10 * size.sum())
    return torch.where(top == 0, 0.0, top / size).amax().sqrt()


def _furthest(data: _Centred, k: int, seed: int) -> Tensor:
    """k rows, each with the largest sum of distances to the others; the first, which is drawn, is chosen anew in the end."""
    m = data.X.shape[0]
    chosen = [int(uniforms(1, 1, seed).item() * m)]

    def away(i: int) -> Tensor:
        one = torch.zeros(m, 1, dtype=data.mean.dtype, device=data.mean.device)
        one[i] = 1.0
        return (data.squares + data.squares[i] - 2 * data.rows(data.cols(one))[:, 0]).clamp(min=0).sqrt()

    far = [away(chosen[0])]
    for turn in range(k):
        if turn == k - 1:  # without the one that was drawn
            chosen, far = chosen[1:], far[1:]
        total = torch.stack(far).sum(0) if far else data.squares.sqrt()
        total[chosen] = -1.0
        chosen.append(int(total.argmax()))
        far.append(away(chosen[-1]))
    return torch.tensor(chosen, device=data.mean.device)


def _mean(X: Matrix) -> Tensor:
    ones = torch.ones(X.shape[0], 1, dtype=X.dtype, device=X.device)
    return (X.T @ ones)[:, 0] / X.shape[0]


def _complete(X: Matrix) -> Matrix:
    if X.weight is not None or not (isinstance(X, Dense) or X.background == 1):
        raise ValueError(f"{X!r} has holes or weights; archetypes need every cell: fill them, e.g. with factorize(…).predict()")
    return X
