"""Starts for W and H: drawn by global row number, so that a start does not depend on how many processes hold the data."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .comm import Comm
from .losses import Frobenius
from .matrix import Dense, Matrix, floating
from .problem import Problem, Quadratic
from .prox import NonNegative, Prox, group_metric
from .prox.base import largest
from .solvers.hals import HALS
from .streamed import Streamed

NAMES = ("random", "nnsvd", "svd", "spa", "vca", "kmeans++")


CORRECTION = HALS(inner=1)

Range = tuple[Tensor, Tensor]
"""Q (m, w) and B (w, n) with X ≈ Q B, see ``range_of``."""


def start(problem: Problem, rank: int, init: Any = "auto", seed: int = 0, pair: Range | None = None) -> tuple[Tensor, Tensor]:
    """A start W (m, k), H (k, n) inside both constraints.

    Args:
        pair: the range of X, where it is known already.
        init: a name, or a pair (W, H) in which None or NaN stands for what is not known; the rest is completed.

            "random"    positive numbers, of both signs where data and constraint have both, in the scale of the data
            "nnsvd"     the leading singular pairs, split by sign and corrected (``nnsvd_lrc``)
            "svd"       the leading singular pairs, each cut to its larger sign where a side needs one
            "spa"       rows of X at the corners, by successive projection; then W for them
            "vca"       the same by vertex component analysis
            "kmeans++"  rows of X far from each other, drawn; then W for them
            "auto"      "nnsvd" where both factors have to be non-negative, and nothing else, and at least half of the cells
                        are data; else "random"

    "spa", "vca" and "kmeans++" take columns of X, as columns of W, where it is the constraint on H that couples components.
    Raises ValueError for an unknown name, a pair of the wrong shape, or one outside the domain of its constraint.
    """
    if isinstance(init, str) and isinstance(problem, Streamed):
        return _sampled(problem, rank, init.strip().lower(), seed)
    if isinstance(init, str):
        return _named(problem, rank, init.strip().lower(), seed, pair)
    if not isinstance(init, tuple | list) or len(init) != 2:
        raise ValueError(f"init is {init!r}; it must be one of {', '.join(NAMES)}, a pair (W, H), or a Result")
    m, n = problem.X.shape
    given = []
    for name, F, shape, prox in (("W", init[0], (m, rank), problem.prox_W), ("H", init[1], (rank, n), problem.prox_H)):
        F = torch.full(shape, torch.nan) if F is None else floating(F, f"init: {name}")
        if tuple(F.shape) != shape:
            raise ValueError(f"init: {name} has shape {tuple(F.shape)}; for this data and rank {rank} it must be {shape}")
        whole = bool(F.sum().isfinite())
        if not whole and bool(F.isinf().any()):
            raise ValueError(f"init: {name} holds inf; every entry of a start is finite, or NaN where it is not known")
        F = F.to(problem.X.device, problem.X.dtype)
        if whole or not bool(F.isnan().any()):
            away, size = prox.violation(F).amax(), F.abs().amax()
            if bool(away > torch.finfo(F.dtype).eps ** 0.5 * torch.maximum(size, prox(F, 0.0).abs().amax())):
                way = f"start inside, e.g. from prox({name}, 0.0)"
                raise ValueError(f"init: {name} is up to {away.item():.3g} outside {prox!r}; {way}")
        given.append(F)
    W, H = given
    return lifted(problem, *_completed(problem, W, H, seed))


def _named(problem: Problem, rank: int, name: str, seed: int, pair: Range | None) -> tuple[Tensor, Tensor]:
    if name == "auto":
        name = "nnsvd" if _mostly_known(problem) and _orthant(problem, rank) and _orthant(problem.T, rank) else "random"
    if name == "random":
        W, Ht = _random(problem, rank, seed, 0), _random(problem.T, rank, seed, 1)
    elif name == "nnsvd":
        W, Ht = nnsvd_lrc(problem, rank, pair, seed)
        if not problem.loss.quadratic:  # where a zero may stay one for good
            W, Ht = _above(W, problem.rows), _above(Ht, problem.cols)
    elif name == "svd":
        W, Ht = _svd(problem, rank, seed)
    elif name in CORNERS:
        W, Ht = _corners(problem, rank, name, seed)
    else:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise ValueError(f"unknown init {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}"))
    W, Ht = problem.prox_W(W, 0.0), problem.T.prox_W(Ht, 0.0)
    if name != "nnsvd" or not problem.loss.quadratic:  # it has its scale already
        W, Ht = _scaled(problem, W, Ht)
    return lifted(problem, W, Ht.mT)


def _sampled(problem: Streamed, rank: int, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """H from a start for the rows that stay in memory, W random in the scale of theirs, which the first half-step replaces."""
    Ws, H = _named(problem.sample, rank, name, seed, None)
    W = _random(problem, rank, seed, 0)
    size, target = W.abs().mean(), Ws.abs().mean()
    W = problem.prox_W(W * torch.where(size > 0, target / size, 1.0), 0.0)
    return W, H if problem.loss.quadratic else problem.prox_H(H + 1e-3 * _size(H), 0.0)


def uniforms(count: int, rank: int, seed: int, offset: int = 0, stream: int = 0) -> Tensor:
    """(count, rank) float64 numbers in [0, 1): rows ``offset`` and on of one endless table that seed and stream decide.

    >>> bool((uniforms(5, 3, seed=1)[2:] == uniforms(3, 3, seed=1, offset=2)).all())
    True
    """
    steps = -(-rank // 4)  # one step of the counter gives four numbers
    bits = np.random.Philox(key=seed, counter=[offset * steps, 0, 0, stream])
    return torch.from_numpy(np.random.Generator(bits).random((count, 4 * steps))[:, :rank].copy())


def _random(problem: Problem, rank: int, seed: int, stream: int) -> Tensor:
    """Numbers in the scale of the constraint: of both signs where it allows them, else positive."""
    m = problem.X.shape[0]
    u = uniforms(m, rank, seed, problem.rows.offset(m), stream).to(problem.X.device, problem.X.dtype)
    centre = problem.prox_W.rest(torch.zeros_like(u)).abs().mean()
    u = u * torch.where(centre > 0, 2 * centre, 1.0)
    return 2 * u - 1 if _signed(problem.prox_W, u) and _signed_data(problem) else u


def _signed(prox: Prox, like: Tensor) -> bool:
    return bool((prox(-torch.ones_like(like), 0.0) < 0).any())


def _orthant(problem: Problem, rank: int) -> bool:
    """Whether prox_W's domain is A ≥ 0, with its zeros, as far as some numbers, of three sizes, tell."""
    m = problem.X.shape[0]
    x = 2 * uniforms(m, rank, 0, problem.rows.offset(m)).to(problem.X.device, problem.X.dtype) - 1
    far = [(problem.prox_W(x * size, 0.0) - (x * size).clamp(min=0)).abs().amax() for size in (1e-3, 1.0, 1e3)]
    barrier = (~problem.prox_W.value(torch.zeros_like(x)).isfinite()).to(x)
    return not bool(problem.rows.max(torch.stack([*far, barrier])).any())


def _mostly_known(problem: Problem) -> bool:
    """Whether at least half of the cells are data, those that are not stored of the same weight as those that are."""
    X = problem.X
    known = X.stored if X.weight is None else int((X.weight > 0).sum())
    odd = bool(X.background) and problem._excess is not None
    cells = [X.shape[0] * X.shape[1] if X.background else known, X.shape[0] * X.shape[1], odd]
    (told,) = problem.rows.sum(torch.tensor(cells, dtype=torch.float64, device=X.device))
    stored, every, odd_ones = problem.cols.sum(told)[0].tolist()
    return 2 * stored >= every and odd_ones == 0


def _signed_data(problem: Problem) -> bool:
    low = getattr(problem.X, "low", None)  # of chunks it is known
    negative = (problem.targets < 0).any() if low is None else low < 0
    (some,) = problem.rows.sum(torch.as_tensor(negative, dtype=torch.float64, device=problem.X.device))
    return bool(problem.cols.sum(some)[0] > 0)


def _svd(problem: Problem, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The leading singular pairs of the data, each cut to its larger sign where a side needs it.

    Cut as by Boutsidis and Gallopoulos (2008); zeros become a hundredth of the mean.
    """
    U, s, V = _singular(problem, range_of(problem, rank + 10, seed, power=4), rank)
    W, H = U * s.sqrt(), V * s.sqrt()
    signed = _signed(problem.prox_W, W), _signed(problem.T.prox_W, H)
    if not all(signed):
        W, H = W if signed[0] else W.clamp(min=0), H if signed[1] else H.clamp(min=0)
    W, H = _revived(problem, W, H, rank, seed)
    return W if signed[0] else _above(W, problem.rows), H if signed[1] else _above(H, problem.cols)


def _above(F: Tensor, comm: Comm) -> Tensor:
    """F ≥ 0 with nothing below a hundredth of its mean."""
    total, count = comm.sum(F.double().sum(), torch.tensor(float(F.numel()), dtype=torch.float64, device=F.device))
    return torch.maximum(F, (0.01 * total / count).to(F))


def range_of(problem: Problem, width: int, seed: int = 0, power: int = 1) -> Range:
    """Q (m, width) and B = QᵀX (width, n): nearly the X ≈ Q B of that width that is closest, from 2 + 2 power products with X.

    The columns of Q are orthonormal; those beyond the rank of X are 0. Cells without data hold a product of rank one, fitted
    to the others. (Randomized range: Halko, Martinsson and Tropp 2011.)

    >>> Q, B = range_of(Problem([[1.0, 2.0], [2.0, 4.0]]), 1)
    >>> (Q @ B).round(decimals=6)
    tensor([[1., 2.],
            [2., 4.]], dtype=torch.float64)
    """
    return _range(problem, _filled(problem), width, seed, power)


def _range(problem: Problem, X: Matrix | _Plus, width: int, seed: int, power: int = 1) -> tuple[Tensor, Tensor]:
    rows, cols, n = problem.rows, problem.cols, X.shape[1]
    drawn = uniforms(n, width, seed, cols.offset(n), stream=2).to(problem.X.device, problem.X.dtype) - 0.5
    Q = _orthonormal(cols.sum(problem.read(X) @ drawn)[0], rows, 1 if power else 2)
    for left in reversed(range(power)):
        P = _orthonormal(rows.sum(problem.read(X).T @ Q)[0], cols, 1)
        Q = _orthonormal(cols.sum(problem.read(X) @ P)[0], rows, 1 if left else 2)
    return Q, rows.sum(problem.read(X).T @ Q)[0].mT


def nnsvd_lrc(
    problem: Problem, rank: int, pair: Range | None = None, seed: int = 0, corrections: int = 20
) -> tuple[Tensor, Tensor]:
    """Non-negative W (m, rank) and Hᵀ (n, rank) with W H near the closest matrix of rank ⌊rank/2⌋ + 1.

    The singular pairs of that matrix are split into their positive and negative parts, one component each, and HALS then fits
    these components to it: the data is not touched again. ``pair`` is Q, B with X ≈ Q B, from ``range_of`` where it is
    None. (NNSVD-LRC: Atif, Qazi and Gillis 2019.)

    >>> W, Ht = nnsvd_lrc(Problem([[1.0, 2.0], [2.0, 4.0]]), 1)
    >>> (W @ Ht.mT).round(decimals=6)
    tensor([[1., 2.],
            [2., 4.]], dtype=torch.float64)
    """
    U, s, V = _singular(problem, range_of(problem, rank + 10, seed) if pair is None else pair, rank // 2 + 1)
    Y, Z = U * s.sqrt(), V * s.sqrt()
    parts = [torch.stack([F.clamp(min=0), (-F).clamp(min=0)], 2).flatten(1) for F in (Y, Z)]  # larger, smaller, larger, …
    W, H = (torch.cat([F[:, :1], F[:, 2:]], 1)[:, :rank] for F in parts)  # the first pair has one sign
    rows, cols = problem.rows, problem.cols
    for _ in range(corrections):
        M, G = cols.sum(Z.mT @ H, H.mT @ H)
        W = CORRECTION.rows(NonNegative(), Quadratic(G, Y @ M), W, {})
        M, G = rows.sum(Y.mT @ W, W.mT @ W)
        H = CORRECTION.rows(NonNegative(), Quadratic(G, Z @ M), H, {})
    w, h = _squares(W, problem)[0], _squares(H, problem.T)[0]
    even = torch.where((w > 0) & (h > 0), h / w, 1.0).pow(0.25).to(W)  # components as large on one side as on the other
    return _revived(problem, W * even, H / even, rank, seed)


def _singular(problem: Problem, pair: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``count`` singular triplets of Q B: U (m, count), s, V (n, count), the larger parts of u and v positive."""
    Q, B = pair
    size = problem.cols.max(largest(B)).double()
    wide = B.double() / torch.where(size > 0, size, 1.0)
    squares, V = torch.linalg.eigh(problem.cols.sum(wide @ wide.mT)[0])
    squares, V = squares.flip(0)[:count], V.flip(1)[:, :count]
    s = torch.where(squares > 1e-14 * squares[0], squares, 0.0).sqrt()
    left, right = Q.double() @ V, wide.mT @ V * torch.where(s > 0, 1 / s, 0.0)
    plus, minus = (problem.rows.sum(F.square().sum(0))[0] for F in (left.clamp(min=0), left.clamp(max=0)))
    above, below = (problem.cols.sum(F.square().sum(0))[0] for F in (right.clamp(min=0), right.clamp(max=0)))
    sign = torch.where(plus * above < minus * below, -1.0, 1.0)
    return (left * sign).to(Q), (s * size).to(Q), (right * sign).to(Q)


def _revived(problem: Problem, W: Tensor, H: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """W (m, rank), H (n, rank), where components that vanish or are wanting are drawn, and small."""
    W, H = (torch.nn.functional.pad(F, (0, rank - F.shape[1])) for F in (W, H))
    sizes = [_squares(F, p) for F, p in ((W, problem), (H, problem.T))]
    dead = (sizes[0][0] == 0) | (sizes[1][0] == 0)
    made = []
    for i, (F, p, (_, mean)) in enumerate(zip((W, H), (problem, problem.T), sizes, strict=True)):
        drawn = uniforms(len(F), rank, seed, p.rows.offset(len(F)), stream=3 + i).to(F)
        made.append(torch.where(dead, drawn * torch.where(mean > 0, 0.02 * mean.sqrt(), 1.0).to(F), F))
    return made[0], made[1]


def _squares(F: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Σ f² of each column (k,), and its mean over all entries; problem.rows are the processes that hold the rows of F."""
    told = torch.cat([F.double().square().sum(0), torch.ones(1, dtype=torch.float64, device=F.device) * len(F)])
    squares = problem.rows.sum(told)[0]
    return squares[:-1], squares[:-1].sum() / (squares[-1] * F.shape[1])


def _orthonormal(Y: Tensor, comm: Comm, rounds: int = 2) -> Tensor:
    """An orthonormal basis of Y's columns, whose rows are spread; 0 where they have fewer dimensions than columns.

    The Gram matrix is all that crosses processes; it squares the condition number, and a second round repairs what that costs;
    on the way to a range it need not.
    """
    size = comm.max(largest(Y))
    Y = Y / torch.where(size > 0, size, 1.0)
    for _ in range(rounds):
        wide = Y.double()
        s, V = torch.linalg.eigh(comm.sum(wide.mT @ wide)[0])
        Y = (wide @ (V * torch.where(s > 1e-13 * s[-1], s.rsqrt(), 0.0))).to(Y)
    return Y


@dataclass(frozen=True)
class _Plus:
    """Stored + A Bᵀ, of which nothing but the two is ever formed."""

    stored: Matrix
    A: Tensor
    B: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape

    @property
    def T(self) -> _Plus:
        return _Plus(self.stored.T, self.B, self.A)

    def __matmul__(self, C: Tensor) -> Tensor:
        return self.stored @ C + self.A @ (self.B.mT @ C)


def _filled(problem: Problem) -> Matrix | _Plus:
    """The data, its holes filled with a product of rank one: w x + (1 - w) r c, the weights w at most 1.

    It is a step of EM for weighted approximation from that product (Srebro and Jaakkola 2003).
    """
    X, rows, cols = problem.X, problem.rows, problem.cols
    holes = not X.background and (X.weight is not None or not isinstance(X, Dense))
    if not cols.max(rows.max(torch.tensor(float(holes), device=X.device))):  # asked of all: one process may hold no hole
        return problem._data
    w = torch.ones_like(X.entries()) if X.weight is None else X.weight
    most = cols.max(rows.max(largest(w)))
    weights = X.like(w / torch.where(most > 0, most, 1.0))
    data = X.like(weights.entries() * X.entries())
    r, c = w.new_ones(X.shape[0], 1), w.new_ones(X.shape[1], 1)
    for _ in range(3):
        r = _ratio(*cols.sum(data @ c, weights @ c.square()))
        c = _ratio(*rows.sum(data.T @ r, weights.T @ r.square()))
    return _Plus(X.like(weights.entries() * (X.entries() - X.predict(r, c))), r, c)


def _ratio(top: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, top / below, 0.0)


# ── rows of the data as components ────────────────────────────────────────────────────────────────────────────────────


def _corners(problem: Problem, rank: int, name: str, seed: int) -> tuple[Tensor, Tensor]:
    if problem.rows.size > 1 or problem.cols.size > 1:
        raise ValueError(f"init={name!r} compares all rows of X with each other, in one process; use init='nnsvd' or 'random'")
    if problem.prox_H.couples(0) and not problem.prox_W.couples(1):
        return _corners(problem.T, rank, name, seed)[::-1]
    pair = range_of(problem, rank + 10, seed)
    U, s, V = _singular(problem, pair, rank)
    points = (U * s).double()
    at = CORNERS[name](points, rank, seed, pair[1])
    H = problem.T.prox_W(V @ (U * s)[at].mT, 0.0)
    again = torch.tensor([j in at[:q] for q, j in enumerate(at)], device=H.device)
    H = torch.where(again, problem.T.prox_W(0.01 * _random(problem.T, rank, seed, 1) * _size(H), 0.0), H)
    W = _answer(problem, problem.prox_W(H.new_zeros(len(U), rank), 0.0), H)
    return _revived(problem, W, H, rank, seed)


def _spa(points: Tensor, count: int, seed: int, B: Tensor) -> list[int]:
    """The longest row, again and again, each time without the direction of the last one (Araújo et al. 2001)."""
    at: list[int] = []
    for _ in range(count):
        at.append(int(points.square().sum(1).argmax()))
        u = points[at[-1]]
        points = points - torch.outer(points @ u, u) / u.square().sum().clamp(min=torch.finfo(u.dtype).tiny)
    return at


def _vca(points: Tensor, count: int, seed: int, B: Tensor) -> list[int]:
    """The row furthest along a random direction orthogonal to the rows already taken (Nascimento and Bioucas-Dias 2005).

    Rows are first laid into a plane: each divided by its part along the mean where there is little noise, else the mean is
    taken off and one dimension given up.
    """
    mean = points.mean(0)
    along, signal, all_of_it = points @ mean, points.square().sum(), B.double().square().sum()
    noise = (all_of_it - signal) / max(1, len(B) - points.shape[1]) * B.shape[1]
    if bool((along > 0).all()) and bool(signal > 10**1.5 * count * noise):
        flat = points / along[:, None] * mean.norm()
    else:
        off = points - mean
        flat = off @ torch.linalg.eigh(off.mT @ off)[1].flip(1)[:, : points.shape[1] - 1]
        flat = torch.cat([flat, flat.norm(dim=1).max().expand(len(flat), 1)], 1)
    draws = torch.special.ndtri(uniforms(count, flat.shape[1], seed, stream=5).clamp(1e-12)).to(flat)
    at: list[int] = []
    for w in draws:
        taken = torch.linalg.qr(flat[at].mT)[0] if at else flat.new_zeros(flat.shape[1], 1)
        at.append(int((flat @ (w - taken @ (taken.mT @ w))).abs().argmax()))
    return at


def _kmeans(points: Tensor, count: int, seed: int, B: Tensor) -> list[int]:
    """Rows drawn one by one, each as likely as its squared distance to those already drawn (Arthur and Vassilvitskii 2007)."""
    share = points.new_ones(len(points))
    at: list[int] = []
    for u in uniforms(count, 1, seed, stream=5)[:, 0].to(points):
        total = share.cumsum(0)
        at.append(int(torch.searchsorted(total, u * total[-1], right=True).clamp(max=len(points) - 1)))
        far = (points - points[at[-1]]).square().sum(1)
        share = torch.minimum(share, far) if len(at) > 1 else far
    return at


CORNERS = {"spa": _spa, "vca": _vca, "kmeans++": _kmeans}


# ── what is given in part ─────────────────────────────────────────────────────────────────────────────────────────────


def _completed(problem: Problem, W: Tensor, H: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """W and H with their NaN filled: drawn in the size of what is known, then the best there for the other factor."""
    sides = {"W": problem, "H": problem.T}
    given = {"W": W, "H": H.mT}
    known = {name: ~F.isnan() for name, F in given.items()}
    made: dict[str, Tensor] = {}
    counts = {}
    for i, (name, p) in enumerate(sides.items()):
        F, sure = given[name], known[name]
        told = torch.stack([F.nan_to_num().abs().sum().double(), sure.sum().double(), torch.ones_like(sure).sum().double()])
        total, count, every = p.rows.sum(told)[0]
        counts[name] = (count / every).item()
        if counts[name] == 1:
            made[name] = F
            continue
        drawn = _random(p, F.shape[1], seed, i)
        size = torch.where(total > 0, total / count, drawn.abs().mean()).to(F) / drawn.abs().mean()
        made[name] = torch.where(sure, F, drawn * size)
    for name in sorted((n for n in made if counts[n] < 1), key=counts.__getitem__):  # the side that is least known first
        p, other = sides[name], made["H" if name == "W" else "W"]
        made[name] = p.prox_W(_answer(p, made[name], other, known[name]), 0.0)
    return made["W"], made["H"].mT


def _answer(problem: Problem, A: Tensor, B: Tensor, known: Tensor | None = None) -> Tensor:
    """About the A (m, k) that fits the data best for the given B in squared error; what is known stays."""
    p = problem if problem.loss.quadratic else dataclasses.replace(problem, loss=Frobenius())
    new = A.clone()
    for r, part in p.blocks(A.shape[1]):
        q, a = part.model(A[r], B), A[r]
        D = group_metric(part.prox_W, q.bound(), tuple(a.shape), "amax")
        step = torch.where(D > 0, 1 / D, 0.0)
        before, speed = a, 1.0
        for _ in range(100):  # accelerated, as by Nesterov (1983)
            following = (1 + (1 + 4 * speed * speed) ** 0.5) / 2
            ahead = a + (speed - 1) / following * (a - before)
            before, speed = a, following
            a = part.prox_W(ahead - q.grad(ahead) * step, step)
            a = a if known is None else torch.where(known[r], A[r], a)
        new[r] = a
    return new


def resized(problem: Problem, W: Tensor, H: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """W and H with ``rank`` components: the largest ‖w_q‖‖h_q‖ of more, or theirs and as many as wanted from X - W H."""
    k = W.shape[1]
    if rank == k:
        return W, H
    if rank < k:
        (w,), (h,) = problem.rows.sum(W.double().square().sum(0)), problem.cols.sum(H.double().square().sum(1))
        keep = (w * h).topk(rank).indices.sort().values
        W, H = W[:, keep], H[keep]
    else:
        more = rank - k
        pair = _range(problem, _residual(problem, W, H.mT), more + 10, seed)
        if _signed(problem.prox_W, W) and _signed(problem.prox_H, H):
            U, s, V = _singular(problem, pair, more)
            A, B = _revived(problem, U * s.sqrt(), V * s.sqrt(), more, seed)
        else:
            A, B = nnsvd_lrc(problem, more, pair, seed)
        W, H = torch.cat([W, A], 1), torch.cat([H, B.mT])
    return problem.prox_W(W, 0.0), problem.prox_H(H, 0.0)


def _residual(problem: Problem, A: Tensor, B: Tensor) -> _Plus:
    """weight · (X - A Bᵀ) over all cells."""
    X = problem.X
    if isinstance(X, Dense) and X.weight is None:
        return _Plus(X, -A, B)
    w = torch.ones_like(X.entries()) if X.weight is None else X.weight
    return _Plus(X.like(w * X.entries() - (w - X.background) * X.predict(A, B)), -X.background * A, B)


# ── scale ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _scaled(problem: Problem, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A and B times the number that fits the data best, as far as the constraints let a factor be scaled."""
    free = [problem.prox_W.cone, problem.prox_H.cone]
    if not any(free):
        return A, B
    top, below = problem.rows.sum(*_products(problem, A, B))
    best = torch.where((top > 0) & (below > 0), top / below, 1.0).to(A)
    if all(free):
        return A * best.sqrt(), B * best.sqrt()
    return (A * best, B) if free[0] else (A, B * best)


def _products(problem: Problem, A: Tensor, B: Tensor) -> tuple[Tensor, ...]:
    """⟨X, A Bᵀ⟩ and ‖A Bᵀ‖² over the data, with its weights, of these rows."""
    if problem.shared:  # one product with X, and no prediction
        C, G = problem.cols.sum(problem.read(problem._data) @ B, problem._gram(B))
        return (C.double() * A.double()).sum(), ((A.mT @ A).double() * G.double()).sum()
    top, below = A.new_zeros(2, dtype=torch.float64)
    for r, part in problem._pieces:
        X, a, b = part.X, A[r].double(), B.double()
        pred = X.predict(a, b)
        w = torch.ones((), dtype=torch.float64, device=pred.device) if X.weight is None else X.weight.double()
        top = top + (w * part.targets.double() * pred).sum()
        below = below + ((w - X.background) * pred.square()).sum()
        below = below + X.background * ((a.mT @ a) * (b.mT @ b)).sum() if X.background else below
    return problem.cols.sum(top, below)


def lifted(problem: Problem, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The start, raised from zero as little as makes its loss finite: under KL a 0 predicted for data is infinitely wrong."""
    if problem.loss.quadratic:
        return W, H
    for lift in (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0):
        w = problem.prox_W(W + lift * _size(W), 0.0) if lift else W
        h = problem.prox_H(H + lift * _size(H), 0.0) if lift else H
        (loss,) = problem.rows.sum(problem.row_losses(w, h.mT).sum())
        if bool(loss.isfinite()):
            return w, h
    raise ValueError(
        f"the loss of the start is {loss.item()}: {problem.loss!r} cannot be evaluated inside {problem.prox_W!r} on W and "
        f"{problem.prox_H!r} on H; loosen a constraint, scale the data (values near 1 are best), or give another init=(W, H)"
    )


def _size(F: Tensor) -> Tensor:
    size = F.abs().mean()
    return torch.where(size > 0, size, 1.0)
