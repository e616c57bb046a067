"""Clicks against drawn negatives: losses over pairs and over choices, in mini-batches of users, on any device.

The loss of a user sees all of their clicks and some items that they did not click, drawn once for a batch. The batch's users
step first, for the items as they stand, and the items after them, so that a user who comes later is solved as in the fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..optim.base import Part, ProxOptimizer
from ..prox import L2Squared, Prox, as_prox, group_metric
from ..serve import Model
from .base import Callback, Recommender
from .tables import Ratings
from .tuning import chosen

Loss = Literal["softmax", "bpr"]

START = 0.1
"""How long the items' rows are at first, and how far one moves at first: scores are logits, so that lengths have a meaning."""

AMPLE = 2
"""Times as many negatives as in a step are drawn where users are solved for good."""

ENOUGH = 50
"""Steps after which the users' rows are taken as solved; mostly far fewer are made."""

NUMBERS = 2**24
"""Of a batch's scores, at most."""

POWER = 8
"""Step t has about the weight t**POWER in the items' average."""

_NEVER = -1e30  # the logit of a negative that does not count


class Tastes(nn.Module):
    """score(u, i) = x_u · y_i + c_i. The users' rows are solved batch by batch, and only the items' have gradients."""

    def __init__(self, users: Tensor, items: Tensor, bias: Tensor):
        super().__init__()
        self.users: Tensor
        self.register_buffer("users", users)
        self.items, self.bias = nn.Parameter(items), nn.Parameter(bias)

    def forward(self, x: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of rows x (b, k) at some items, or at all: (b, items)."""
        Y, c = (self.items, self.bias) if items is None else (self.items[items], self.bias[items])
        return x @ Y.mT + c.mT

    def pairs(self, x: Tensor, items: Tensor) -> Tensor:
        """Scores of each row of x at one item: (b,)."""
        return (x * self.items[items]).sum(1) + self.bias[items, 0]


class Clicks(NamedTuple):
    """Of some users: which they are, and the row among them, the item and the weight of each click."""

    users: Tensor  # (b,)
    row: Tensor  # (clicks,)
    item: Tensor
    weight: Tensor


class Negatives(NamedTuple):
    """Items in the place of all: Σ_j exp(log_weight_j) f(item_j) has the mean Σ f over all items. None stands for all."""

    items: Tensor | None  # (s,)
    log_weight: Tensor  # (s,)
    place: Tensor  # (n,): where each item stands among them, s where it does not

    def clicked(self, clicks: Clicks) -> Tensor:
        """(b, s): which of them a user has clicked, so that they are no negatives for this one."""
        b, s = len(clicks.users), len(self.log_weight)
        mask = torch.zeros(b, s + 1, dtype=torch.bool, device=self.place.device)
        mask[clicks.row, self.place[clicks.item]] = True
        return mask[:, :s]


def everything(n: int, device: Any = "cpu") -> Negatives:
    """All items, each with the weight 1."""
    return Negatives(None, torch.zeros(n, device=device), torch.arange(n, device=device))


def drawn(share: Tensor, size: int, generator: torch.Generator) -> Negatives:
    """``size`` items with replacement, half of the draws by popularity, half alike; one that comes twice is there once, for two.

    The weight is 1 over the mean number of times that an item is drawn, so at most 2 n / size. (Jean et al. 2015, Blanc and
    Rendle 2018, of the correction; Hesterberg 1995, of the mixture.)
    """
    n, device = len(share), share.device
    q = 0.5 / n + 0.5 * share.double() / share.sum(dtype=torch.float64)
    at = torch.rand(size, generator=generator, device=device, dtype=torch.float64)
    items = torch.searchsorted(q.cumsum(0), at).clamp_(max=n - 1)
    places = torch.arange(size, device=device)
    place = torch.full((n,), size, device=device).scatter_reduce_(0, items, places, "amin")
    times = torch.zeros(n, device=device, dtype=torch.float64).scatter_add_(0, items, torch.ones_like(at))
    weight = (times / (size * q))[items].log().float()
    return Negatives(items, torch.where(place[items] == places, weight, _NEVER), place)


def losses(kind: Loss, tastes: Tastes, x: Tensor, clicks: Clicks, negatives: Negatives, clicked: Tensor) -> Tensor:
    """The loss of each user whose rows are x, (b,); of "softmax" Σ_i w log(1 + Σ_j exp(s_j - s_i)), see ``SampledMF``."""
    scores = tastes(x, negatives.items)
    own = scores[clicks.row, clicks.item] if negatives.items is None else tastes.pairs(x[clicks.row], clicks.item)
    if kind == "softmax":
        others = (scores + negatives.log_weight).masked_fill(clicked, _NEVER).logsumexp(1)
        each = softplus(others[clicks.row] - own)
    else:
        weight = negatives.log_weight.exp().masked_fill(clicked, 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-30)
        each = (weight[clicks.row] * softplus(scores[clicks.row] - own[:, None])).sum(1)
    return x.new_zeros(len(x)).index_add(0, clicks.row, clicks.weight * each)


class RowSteps(ProxOptimizer):
    """Proximal AdaGrad with one accumulator for each row, its step found by distance: p ← prox(p - s g, s).

    For the row p_j, s_j = r / √(Σ |g_j|²), with r the largest root mean square over the rows of |p - p_0| so far, ``START``
    at first: no rate is to set, and a loss times a number takes the same steps. ``answer`` is prox(p̄, s̄), where p̄ and s̄
    average what the prox was given. Nothing waits for the device. (Duchi, Hazan and Singer 2011; Chin et al. 2015, of one
    accumulator a row; Ivgi, Hinder and Carmon 2023, of the distance and the average.)

    >>> p = torch.nn.Parameter(torch.zeros(1, 2))
    >>> optimizer = RowSteps([p], "nonneg")
    >>> for _ in range(300):
    ...     p.grad = p.detach() - torch.tensor([[2.0, -1.0]])
    ...     optimizer.step()
    >>> optimizer.answer()[0].round(decimals=2)
    tensor([[2., 0.]])
    """

    no_residual = "the gradient of a mini-batch does not vanish at a solution; measure that of the whole data"

    def __init__(self, params: Any, proxs: Any = None):
        super().__init__(params, proxs, {"capturable": True})

    def _advance(self, parts: list[Part], closure: Any, loss: Any) -> None:
        for part in parts:
            x, g, state = part.values, part.grad, self.state[part.param]
            if not state:
                zero = x.new_zeros(len(x), 1)
                state |= {"anchor": x.clone(), "squares": zero, "reach": x.new_tensor(START), "taken": 0}
                state |= {"average": torch.zeros_like(x), "average_step": self._honoured(part, zero).clone()}
            state["squares"] += g.square().sum(1, keepdim=True)
            step = torch.where(state["squares"] > 0, state["reach"] * state["squares"].rsqrt(), 0.0)
            step = self._honoured(part, step)
            given = x - step * g
            state["taken"] += 1
            weight = (POWER + 1) / (state["taken"] + POWER)
            state["average"].lerp_(given, weight)
            state["average_step"].lerp_(step, weight)
            x.copy_(part.prox(given, step))
            moved = torch.linalg.vector_norm(x - state["anchor"]) / len(x) ** 0.5
            state["reach"] = torch.maximum(state["reach"], moved)

    @staticmethod
    def _honoured(part: Part, step: Tensor) -> Tensor:
        return group_metric(part.prox, step, tuple(part.values.shape), "mean")

    @torch.no_grad()
    def answer(self) -> list[Tensor]:
        """The average of each parameter, or itself before the first step."""
        found = []
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                found.append(group["prox"](state["average"], state["average_step"]) if state else p.detach().clone())
        return found


def stepped(
    kind: Loss, tastes: Tastes, step: Tensor, clicks: Clicks, negatives: Negatives, prox: Prox, steps: int, tol: float = 0.0
) -> None:
    """The rows of the batch's users make proximal gradient steps; ``step`` (m, 1) keeps the lengths that suited them.

    A row's step is the inverse of the curvature along its last move; one whose loss is above the step's quadratic bound stays,
    and tries at most half. With ``tol`` they end early, once no row moves by more. (Barzilai and Borwein 1988; Beck and
    Teboulle 2009, of the bound.)
    """
    clicked, prox = negatives.clicked(clicks), prox.take(clicks.users, 0)
    x, s = tastes.users[clicks.users], step[clicks.users]

    def at(rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.detach().requires_grad_()
        with torch.enable_grad():
            loss = losses(kind, tastes, rows, clicks, negatives, clicked)
            return loss.detach(), torch.autograd.grad(loss.sum(), rows)[0]

    loss, g = at(x)
    for _ in range(steps):
        new = prox(x - s * g, s)
        there, slope = at(new)
        d = new - x
        length, bent = (d * d).sum(1, keepdim=True), (d * (slope - g)).sum(1, keepdim=True)
        bound = loss + (g * d).sum(1) + (length / (2 * s))[:, 0]
        good = (there <= bound + 1e-6 * loss)[:, None]
        secant = torch.where(bent > 0, length / bent, math.inf)
        s = torch.minimum(secant, torch.where(good, 4.0, 0.5) * s).clamp(max=1e3)
        x, g, loss = torch.where(good, new, x), torch.where(good, slope, g), torch.where(good[:, 0], there, loss)
        if tol and float(torch.where(good, d.abs(), tol).amax()) < tol:
            break
    tastes.users[clicks.users], step[clicks.users] = x, s


@dataclass(kw_only=True)
class SampledMF(Recommender):
    """Clicks as choices, s_ui = x_u·y_i + c_i, by mini-batches of users against drawn negatives; made for GPUs, no rate to set.

    Σ_u Σ_i w_ui l_ui + ½ reg Σ_u n_u |x_u|² + ½ reg Σ_i n_i |y_i|², n the weight of the clicks (values above 0), and

    softmax  l_ui = -log (exp s_ui / (exp s_ui + Σ_j exp s_uj)),  the click against all items j that u did not click
    bpr      l_ui = the mean over these j of log(1 + exp(s_uj - s_ui))

    Over more than ``negatives`` items, as many are drawn for each batch, and weighed so that the sums are right in the mean;
    of fewer, all are taken and nothing is drawn. An item that a user has clicked is never a negative for this user. ``W``
    and ``H`` constrain the tastes of users and items, a row for each. ``max_iter`` epochs over batches of ``batch`` users (a
    sixteenth of them, at most 1024, if left out); ``reg="auto"`` is chosen on hidden clicks, and the number of epochs with it.
    Memory is that of five tables of the items' size, of the users' rows, and of one batch's scores. On a GPU sums may round
    differently from run to run.

    In each batch the users make ``steps`` proximal gradient steps, and the items one with the optimizer ``RowSteps``. Where
    negatives are drawn, users are solved for good over twice as many. "softmax" ranks about as well as `ImplicitMF`, "bpr"
    less well. (Rendle et al. 2009, of BPR; Jean et al. 2015 and Blanc and Rendle 2018, of the sampled softmax.)

    >>> model = SampledMF(rank=2, reg=0.1, max_iter=5).fit((["a", "a", "b", "c"], [1, 2, 1, 3]))
    >>> model.recommend("b", n=1)["item"].to_pylist()
    [2]
    """

    loss: Loss = "softmax"
    rank: int = 64
    reg: float | Literal["auto"] = "auto"
    negatives: int | None = None
    W: Any = None
    H: Any = None
    batch: int | None = None
    steps: int = 2
    max_iter: int = 32
    seed: int = 0
    device: str = "cpu"

    implicit: ClassVar[bool] = True
    search: ClassVar[dict[str, Any]] = {"reg": (0.005, 1.0), "rank": [16, 32, 64, 128]}

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        self._check()
        _weights(ratings)
        best, self.trials_ = chosen(self, ratings, callback)
        self.found_ = {f.name: new for f in fields(self) if f.init and (new := getattr(best, f.name)) != getattr(self, f.name)}
        n_u, n_i = _counts(ratings)
        share = (n_i / len(n_u)).astype(np.float32)
        tastes = self._start(ratings, n_i, start)
        optimizer = RowSteps([{"params": [tastes.items], "prox": self._prox(self.H, n_i)}, {"params": [tastes.bias], "prox": None}])

        def model(solved: bool) -> Model:
            items, bias = optimizer.answer()
            Y, c = items.cpu().numpy(), bias[:, 0].cpu().numpy()
            X = self._closed(ratings, Y, c, share) if solved else tastes.users.cpu().numpy()
            found = {"found": self.found_}
            return Model(ratings.users, ratings.items, X, Y, 0.0, None, c, *ratings.csr(), fallback=share, info=found)

        self._epochs(tastes, optimizer, ratings, n_u, share, partial(model, False), callback)
        return model(True)

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray, None]:
        m = self.model_
        return self._closed(ratings, m.Y, m.c, m.fallback), None

    def _check(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss is {self.loss!r}; it is one of {', '.join(get_args(Loss))}")
        for name, low in (("rank", 1), ("negatives", 1), ("batch", 1), ("steps", 1), ("max_iter", 1), ("seed", 0)):
            value = getattr(self, name)
            if name in ("negatives", "batch") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name} is {value!r}; it is a whole number of at least {low}")
        reg: Any = self.reg
        numeric = isinstance(reg, int | float | np.number) and not isinstance(reg, bool)
        if not (0 <= reg < np.inf if numeric else isinstance(reg, str) and reg == "auto"):
            raise ValueError(f"reg is {reg!r}; it is a finite number, not negative, or auto")
        if as_prox(self.W).couples(0):
            raise ValueError(f"W={self.W!r} couples the users, who are learned batch by batch; constrain each user's row")

    def _number(self, name: str) -> Any:
        """An option as it was given, or as the search found it."""
        found = self.found_ if "found_" in vars(self) else self.model_.info["found"]
        return found.get(name, getattr(self, name))

    def _prox(self, given: Any, data: np.ndarray) -> Prox:
        """The constraint and the ridge of each row."""
        lam = self._number("reg") * np.where(data > 0, data, 1.0)
        ridge = L2Squared(torch.tensor(lam[:, None], dtype=torch.float32, device=self.device))
        return ridge if given is None else as_prox(given) + ridge

    def _start(self, ratings: Ratings, n_i: np.ndarray, start: Model | None) -> Tastes:
        """Small random items, as popular as they are; those of another fit where it has them."""
        rank = self._number("rank")
        draw = np.random.Generator(np.random.Philox(self.seed))
        Y = torch.from_numpy(draw.standard_normal((len(n_i), rank), dtype=np.float32)) * (START / rank**0.5)
        if self.H is not None:
            Y = as_prox(self.H)(Y.abs(), 0.0)
        c = torch.tensor(np.log((n_i + 0.5) / (n_i.sum() + 0.5 * len(n_i))), dtype=torch.float32)
        X = torch.zeros(len(ratings.users), rank)
        if start is not None and start.Y.shape[1] == rank:
            X, old = torch.tensor(start.X), torch.tensor(start.Y)
            known = (old != 0).any(1)
            Y, c = torch.where(known[:, None], old, Y), torch.where(known, torch.tensor(start.c), c)
        if self.W is not None:
            X = as_prox(self.W)(X, 0.0)
        return Tastes(X, Y, c[:, None]).to(self.device)

    # ── epochs ──

    def _epochs(
        self, tastes: Tastes, optimizer: RowSteps, r: Ratings, n_u: np.ndarray, share: np.ndarray, model: Any, callback: Any
    ) -> None:
        rng, generator = np.random.default_rng([self.seed, 1]), torch.Generator(self.device).manual_seed(self.seed)
        popular, prox, active = torch.tensor(share, device=self.device), self._prox(self.W, n_u), np.flatnonzero(n_u > 0)
        step = self._lengths(n_u)
        size, most = min(1024, -(-len(active) // 16)) if self.batch is None else self.batch, self._number("max_iter")
        for epoch in range(1, most + 1):
            total = torch.zeros((), dtype=torch.float64, device=self.device)
            for clicks in self._batches(r, rng.permutation(active), size, self._drawn):
                negatives = self._negatives(popular, self._drawn, generator)
                with torch.no_grad():
                    stepped(self.loss, tastes, step, clicks, negatives, prox, self.steps)
                optimizer.zero_grad()
                x = tastes.users[clicks.users]
                loss = losses(self.loss, tastes, x, clicks, negatives, negatives.clicked(clicks)).sum()
                (loss * (len(active) / len(x))).backward()
                optimizer.step()
                total += loss.detach()
            row = {"sweep": epoch, "sweeps": most, "loss": float(total) / float(n_u.sum())}
            if self._seen(row, callback, model):
                break

    @property
    def _drawn(self) -> int:
        return {"softmax": 2048, "bpr": 64}[self.loss] if self.negatives is None else self.negatives

    def _negatives(self, share: Tensor, size: int, generator: torch.Generator) -> Negatives:
        return everything(len(share), self.device) if size >= len(share) else drawn(share, size, generator)

    def _batches(self, r: Ratings, users: np.ndarray, size: int, negatives: int) -> Iterator[Clicks]:
        """The clicks of these users, at most ``size`` at a time, and no more than a batch may hold; the host alone cuts."""
        owned = np.diff(r.indptr)[users]
        ends = np.cumsum(owned)
        cells = np.repeat(r.indptr[users] - (ends - owned), owned) + np.arange(owned.sum())
        arrays = users, np.repeat(np.arange(len(users)), owned), r.item[cells].astype(np.int64), _weights(r)[cells]
        who, row, item, w = (torch.from_numpy(v).to(self.device) for v in arrays)
        cost = min(negatives, r.shape[1]) * np.cumsum(owned if self.loss == "bpr" else np.ones_like(owned))
        cuts = 1 + np.flatnonzero(np.diff(np.arange(len(users)) // size) | np.diff(cost // NUMBERS))
        bounds = [0, *cuts.tolist(), len(users)]
        for a, b in pairwise(bounds):
            at = slice(int(ends[a] - owned[a]), int(ends[b - 1]))
            yield Clicks(who[a:b], row[at] - a, item[at], w[at].float())

    def _lengths(self, n_u: np.ndarray) -> Tensor:
        """The users' first steps, (m, 1)."""
        return torch.tensor(1 / np.where(n_u > 0, n_u, 1.0)[:, None], dtype=torch.float32, device=self.device)

    # ── users for good ──

    @torch.no_grad()
    def _closed(self, ratings: Ratings, Y: np.ndarray, c: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The minimising rows for fixed items, from zero: for a user of the fit and for one who comes later alike."""
        n_u, _ = _counts(ratings)
        X = torch.zeros(len(n_u), Y.shape[1])
        if self.W is not None:
            X = as_prox(self.W)(X, 0.0)
        tastes = Tastes(X, torch.tensor(Y), torch.tensor(c)[:, None]).to(self.device)
        step = self._lengths(n_u)
        generator, size = torch.Generator(self.device).manual_seed(self.seed), AMPLE * self._drawn
        negatives, prox = self._negatives(torch.tensor(share, device=self.device), size, generator), self._prox(self.W, n_u)
        for clicks in self._batches(ratings, np.flatnonzero(n_u > 0), len(n_u), size):
            stepped(self.loss, tastes, step, clicks, negatives, prox, ENOUGH, tol=3e-4)
        return tastes.users.cpu().numpy()


def _weights(ratings: Ratings) -> np.ndarray:
    """The weight of each cell, of mean 1 over the clicks; 0 where there is none, the value not being above 0."""
    weight = np.where(ratings.value > 0, 1.0 if ratings.weight is None else ratings.weight, 0.0)
    if not weight.any():
        raise ValueError("there are no clicks to learn from: no rating with a weight is above 0")
    return weight / weight[ratings.value > 0].mean()


def _counts(r: Ratings) -> tuple[np.ndarray, np.ndarray]:
    """The weight of the clicks of each user and of each item."""
    w, (m, n) = _weights(r), r.shape
    return np.bincount(r.user, w, m), np.bincount(r.item, w, n)
