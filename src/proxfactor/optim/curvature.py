"""Curvature of a loss from differences of gradients, in the structure that one difference can show."""

from __future__ import annotations

import torch
from torch import Tensor

from .flat import Evaluate, Flat

Block = dict[str, Tensor]
_FLOOR = 1e-4  # of the largest eigenvalue: what is smaller in a block is not told from rounding and from change
MEASURED = {0, *(5 * 2**k for k in range(40))}  # after so many steps
_SEPARATE = 4  # parameters that are moved one by one; more are moved together, at the price of some noise


class Curvature:
    """A symmetric positive matrix B ≈ ∇²f, one block per parameter, each in the form that fits its probe best.

    A parameter is a matrix P (its first dim against the others), z a random vector of signs times its mean size and
    h = ∇f(P + ε z) - ∇f(P) ≈ ε ∇²f z. The candidates for h are c z with one number, r_i z_ij or c_j z_ij with one per row
    or column, and z G or G z with a small matrix: what a factor of a product, or a layer, has exactly under squared error.
    The one with the least error per degree of freedom is kept, its eigenvalues made positive.
    """

    def __init__(self, flat: Flat, blocks: list[Block]):
        self.flat, self.blocks = flat, blocks

    @classmethod
    def probe(cls, flat: Flat, x: Tensor, loss: float, gradient: Tensor, evaluate: Evaluate, seed: int) -> Curvature:
        """Measured at x, where the loss and the gradient are known: one more gradient for each of a few parameters."""
        eps = 2.0 ** round(torch.log2(torch.tensor(torch.finfo(flat.dtype).eps)).item() / 2)
        size = cls._units(flat, x, loss, gradient)
        signs = cls._inward(flat, x, cls._signs(flat, seed), [s * eps for s in size])
        few = len(flat.parts) <= _SEPARATE
        blocks: list[Block] = [{}] * len(flat.parts)
        for chosen in [[i] for i in range(len(flat.parts))] if few else [list(range(len(flat.parts)))]:
            moved = [z * s * eps if i in chosen else torch.zeros_like(z) for i, (z, s) in enumerate(zip(signs, size, strict=True))]
            change = flat.split(evaluate(x + flat.join(moved))[1] - gradient)
            for i in chosen:
                blocks[i] = _positive(_fit(signs[i], change[i] / (size[i] * eps)), eps * _rms(flat.split(gradient)[i]) / size[i])
        return cls(flat, blocks)

    @staticmethod
    def _units(flat: Flat, x: Tensor, loss: float, gradient: Tensor) -> list[Tensor]:
        """A length for each parameter: its mean size, or where it is 0 the way on which the loss would change by itself."""
        sizes = []
        for t, g in zip(flat.split(x), flat.split(gradient), strict=True):
            slope = torch.linalg.vector_norm(g, dtype=torch.float64) * max(t.numel(), 1) ** 0.5
            way = torch.where(slope > 0, abs(loss) / slope, 1.0)
            mean = t.abs().mean(dtype=torch.float64)
            unit = torch.where(mean > 0, mean, way)
            sizes.append(torch.where((unit > 0) & unit.isfinite(), unit, 1.0).to(flat.dtype))
        return sizes

    @staticmethod
    def _signs(flat: Flat, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(0, 2, (sum(flat.sizes),), generator=generator)
        return flat.split((2 * draws - 1).to(flat.device, flat.dtype))

    @staticmethod
    def _inward(flat: Flat, x: Tensor, signs: list[Tensor], size: list[Tensor]) -> list[Tensor]:
        """The signs, turned where the operators undo most of the move: a probe should not leave the loss's domain with them."""
        move = flat.join([z * s for z, s in zip(signs, size, strict=True)])
        undone = flat.split((flat.nearest(x + move) - x - move).abs() > 0.5 * move.abs())
        return [torch.where(u, -z, z) for u, z in zip(undone, signs, strict=True)]

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.flat.join([_times(b, t).view(t.shape) for b, t in zip(self.blocks, self.flat.split(v), strict=True)])

    def diagonal(self) -> Tensor:
        """The diagonal of B, as a vector."""
        return self.flat.join([_diagonal(b, s) for b, s in zip(self.blocks, self.flat.shapes, strict=True)])


def _matrix(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], -1) if t.ndim > 1 else t.reshape(1, -1)


def _fit(signs: Tensor, change: Tensor) -> Block:
    z, h = _matrix(signs), _matrix(change)
    m, k = z.shape
    if not bool(h.isfinite().all()):
        return {"scale": torch.zeros_like(h[:1, :1])}
    each = z * h
    forms: list[tuple[int, Block]] = [(1, {"scale": each.mean().view(1, 1)})]
    if min(m, k) > 1:
        forms += [(m, {"scale": each.mean(1, keepdim=True)}), (k, {"scale": each.mean(0, keepdim=True)})]
        forms += [(k * k, {"right": torch.linalg.pinv(z) @ h})] if 2 * k <= m else []  # lstsq is not the same at all scales
        forms += [(m * m, {"left": h @ torch.linalg.pinv(z)})] if 2 * m <= k else []
    errors = [
        float((h - _times(block, z)).square().sum()) / (1 - free / (m * k)) ** 2 if free < m * k else float("inf")
        for free, block in forms
    ]
    return forms[errors.index(min(errors))][1]


def _positive(block: Block, noise: Tensor) -> Block:
    """The block with its eigenvalues positive; noise is the curvature that rounding alone would show."""
    ((kind, c),) = block.items()
    if kind == "scale":
        c = c.abs()
        return {kind: torch.maximum(c, torch.maximum(_FLOOR * c.amax(), noise))}
    e, V = torch.linalg.eigh((c + c.mT) / 2)
    e = e.abs()
    return {kind: (V * torch.maximum(e, torch.maximum(_FLOOR * e.amax(), noise))) @ V.mT}


def _rms(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(g) / max(g.numel(), 1) ** 0.5


def _times(block: Block, t: Tensor) -> Tensor:
    ((kind, c),) = block.items()
    v = _matrix(t)
    return c * v if kind == "scale" else v @ c if kind == "right" else c @ v


def _diagonal(block: Block, shape: torch.Size) -> Tensor:
    ((kind, c),) = block.items()
    rows = shape[0] if len(shape) > 1 else 1
    wide = (rows, shape.numel() // max(rows, 1))
    d = c if kind == "scale" else c.diagonal()[None, :] if kind == "right" else c.diagonal()[:, None]
    return d.expand(wide).reshape(shape)
