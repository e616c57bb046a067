"""A proximal quasi-Newton method: few gradients, high accuracy, no learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import Spec
from .curvature import MEASURED, Curvature
from .flat import Evaluate, Flat, dot
from .whole import WholeOptimizer

_DECREASE = 1e-4  # of the decrease that the model promises, to be kept (Armijo 1966)
_WALL = 100.0  # times the model's curvature: a step over which the gradient changes by more ended in a wall, as KL has at 0
_DOUBT = 100.0  # times the model's curvature, without a fall: the loss is looked at again where it is known
_EASIER = 0.1  # the model is minimised until its residual has fallen to this share


class ProxLBFGS(WholeOptimizer):
    """Proximal quasi-Newton steps: p ← argmin_z <∇f, z - p> + ½ (z - p)ᵀ B (z - p) + g(z), B ≈ ∇²f, all parameters at once.

    B is the L-BFGS matrix of the last ``history`` steps over a first one that is measured by a few differences of
    gradients: per parameter a number, one per row or column, or a small matrix (see ``Curvature``), measured again after
    5, 10, 20, 40, … steps. The model is minimised by accelerated proximal gradient steps in B's diagonal, ``inner`` at most:
    operators are applied often, gradients are taken seldom. If the loss falls by less than a share of what the model
    promises, B grows and the model is solved again, so that the objective never rises, and no segment is searched that may
    leave a nonconvex set. A start whose scale is wrong by ten and more is put right first, as in ``PGM``.

    ``step`` needs a closure, deterministic (all of the data, no dropout), and calls it once as a rule. Methods of this kind
    are proved to end at stationary points for smooth losses, convex operators and models that are minimised well enough;
    this one was measured. Operators that are not convex are taken too, without acceleration inside.
    Where a step promises less than rounding, the parameters stay, and the closure is not called again.
    (Byrd, Nocedal and Schnabel 1994 for the compact form; Lee, Sun and Saunders 2014; Kanzow and Lechner 2021.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = ProxLBFGS([w], "simplex(dim=0)")
    >>> for _ in range(3):
    ...     loss = optimizer.step(lambda: (cost := w[0] + 2 * w[1], optimizer.zero_grad(), cost.backward())[0])
    >>> w.data
    tensor([1., 0.])
    """

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        history: int = 10,
        inner: int = 100,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, proxs, {"history": history, "inner": inner, "maximize": maximize})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        super()._check_group(group, where)
        for name in ("history", "inner"):
            if isinstance(group[name], bool) or not isinstance(group[name], int) or group[name] < 1:
                raise ValueError(f"{name} is {group[name]!r} in {where}; it must be a whole number of at least 1")

    def _next(self, flat: Flat, x: Tensor, f: float, grad: Tensor, at: Evaluate, memory: dict[str, Any]) -> Tensor:
        memory.setdefault("pairs", [])
        penalty, eps, extra = flat.penalty(x), torch.finfo(flat.dtype).eps, memory.get("extra", 0.0)
        slack = 10 * eps * abs(f + penalty)
        if memory["count"] in MEASURED or "blocks" not in memory:
            memory["blocks"] = Curvature.probe(flat, x, f, grad, at, seed=memory["count"]).blocks
        first = Curvature(flat, memory["blocks"])
        while True:
            model = Model(flat, first, memory["pairs"], extra)
            z = model.minimise(x, grad, self.param_groups[0]["inner"], memory)
            s, more = z - x, flat.penalty(z) - penalty
            promise = dot(grad, s) + 0.5 * dot(s, model @ s) + more
            if torch.equal(z, x) or not -promise > eps * abs(f + penalty):
                return x
            f_new, grad_new = at(z)
            y, fall = grad_new - grad, f_new - f + more
            good = math.isfinite(fall) and bool(grad_new.isfinite().all())
            if good:
                memory["pairs"] = self._paired(memory["pairs"], s, y, first)
            wall = dot(y, y / model.D) > (_WALL * (1 + extra)) ** 2 * dot(s * model.D, s)
            if good and not wall and fall <= _DECREASE * promise + slack:
                memory.update(count=memory["count"] + 1, extra=extra / 4 if extra > 0.01 else 0.0)
                return z
            extra = 4 * max(extra, 0.25)
            if extra / 4 <= _DOUBT < extra:
                self._stuck(x, f, at, 100 * slack)
            if extra > 1 / eps:
                memory["extra"] = 0.0
                return self._stuck(x, f, at, slack)

    def _paired(self, pairs: list[Tensor], s: Tensor, y: Tensor, first: Curvature) -> list[Tensor]:
        """The pairs (s, y) with a new one, if it shows a curvature that is not lost in the size of its vectors."""
        size = math.sqrt(dot(s, first @ s) * dot(y, y / first.diagonal()))
        if not dot(s, y) > 1e-8 * size:
            return pairs
        return [*pairs, torch.stack([s, y])][-self.param_groups[0]["history"] :]


class Model:
    """<∇f, d> + ½ dᵀ(B + extra D)d + g(x + d): the objective as a step sees it.

    B = B₀ - W M⁻¹ Wᵀ with W = [B₀S, Y], S and Y the steps and the changes of the gradient as columns, M = [[SᵀB₀S, L],
    [Lᵀ, -diag(SᵀY)]] and L the part of SᵀY below its diagonal (Byrd, Nocedal and Schnabel 1994). D is the diagonal of B₀
    in the operators' metric.
    """

    def __init__(self, flat: Flat, first: Curvature, pairs: list[Tensor], extra: float):
        self.flat, self.first, self.extra = flat, first, extra
        self.D = flat.metric(first.diagonal())
        self.W: Tensor | None = None
        if pairs:
            S, Y = torch.stack(pairs, -1).unbind(0)
            BS, SY = torch.stack([first @ s for s in S.mT], -1), S.mT @ Y
            low, W = SY.tril(-1), torch.cat([BS, Y], 1)
            M = torch.cat([torch.cat([S.mT @ BS, low], 1), torch.cat([low.mT, -SY.diag().diag()], 1)])
            inverse, info = torch.linalg.inv_ex(M)
            if int(info) == 0 and bool(inverse.isfinite().all()):
                self.W, self.inverse = W, inverse

    def __matmul__(self, d: Tensor) -> Tensor:
        Bd = self.first @ d + self.extra * self.D * d
        return Bd if self.W is None else Bd - self.W @ (self.inverse @ (self.W.mT @ d))

    def minimise(self, x: Tensor, grad: Tensor, most: int, memory: dict[str, Any]) -> Tensor:
        """A point of lower model, by at most so many applications of the operators."""
        D, convex = self.D, all(p.prox.convex for p in self.flat.parts)
        bound = 1.1 * self._largest(memory)
        z, y, t, first = x, x, 1.0, math.inf
        for k in range(most):
            step = 1 / (bound * D)
            new = self.flat.prox(y - step * (grad + self @ (y - x)), step)
            away = dot((new - y) * D, new - y)
            first = first if k else away
            t = 1.0 if dot((y - new) * D, new - z) > 0 or not convex else t
            t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
            y = new + ((t - 1) / t_new * (new - z) if convex else 0.0)
            z, t = new, t_new
            if away <= _EASIER**2 * first:
                break
        return z

    def _largest(self, memory: dict[str, Any]) -> float:
        """The largest eigenvalue of B in the metric D, by a few power steps from where the last ones ended."""
        v = memory.get("lean")
        if v is None:
            v = torch.randn(self.D.shape, generator=torch.Generator().manual_seed(0)).to(self.D)
        v, most = v / self.D.sqrt(), 1.0
        for _ in range(8):
            u = (self @ v) / self.D
            most = math.sqrt(dot(u * self.D, u) / dot(v * self.D, v))
            v = u / math.sqrt(dot(u * self.D, u))
        memory["lean"] = v * self.D.sqrt()
        return most
