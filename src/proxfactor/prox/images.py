"""Images: each slice along ``dim`` is an image of the given shape, written row after row.

Symmetry is a true projection. The others are heuristics of astronomical deblending: they minimise nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .base import Along, Step
from .matrices import average


class _Images(Along):
    """An operator on slices along ``dim`` that are images of a ``shape``, its second field."""

    dim: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shape", self._pair("shape", 1))

    def _pair(self, name: str, low: int) -> tuple[int, int]:
        given = getattr(self, name)
        try:
            a, b = given
            if isinstance(a, bool) or isinstance(b, bool) or int(a) != a or int(b) != b or min(a, b) < low:
                raise ValueError
        except (TypeError, ValueError):
            what = f"(height, width), two whole numbers of at least {low}," if low else "(row, column), two whole numbers,"
            raise ValueError(f"{name} of {type(self).__name__} is {given!r}; {what} is needed") from None
        return int(a), int(b)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fits(shape, name)

    def _fits(self, shape: tuple[int, ...], name: str) -> None:
        h, w = self.shape
        if shape[self.dim] != h * w:
            given = f"{name} of shape {tuple(shape)} has {shape[self.dim]} along dim {self.dim}"
            raise ValueError(f"{self!r} needs slices of {h} · {w} = {h * w} pixels; {given}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fits(x.shape, "x")
        if isinstance(step, Tensor) and step.ndim:
            step = step.expand(x.shape).movedim(self.dim, -1).unflatten(-1, self.shape)
        return self._images(x.movedim(self.dim, -1).unflatten(-1, self.shape), step).flatten(-2).movedim(-1, self.dim)

    @abstractmethod
    def _images(self, x: Tensor, step: Step) -> Tensor:
        """The operator on images in the last two dims; a new tensor."""


@dataclass(frozen=True, eq=False, repr=False)
class MirrorSymmetric(_Images):
    """Images that equal their mirror image: the average over the mirrored pixels, weighted by 1/step.

    axis says what leaves the image as it is: "horizontal" turns left and right over, "vertical" turns top and bottom over,
    "both" means each of the two, "point" is half a turn. A true projection on a linear subspace.

    >>> MirrorSymmetric(0, (2, 2), "horizontal")(torch.tensor([1.0, 3.0, 0.0, 4.0]))
    tensor([2., 2., 2., 2.])
    """

    dim: int
    shape: tuple[int, int]
    axis: Literal["both", "horizontal", "vertical", "point"] = "both"
    alias = "mirror"
    formula = "image = its mirror image along dim"
    metric = "weighted"
    cone = True
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in _TURNS:
            raise ValueError(f"axis of MirrorSymmetric is {self.axis!r}; known: {', '.join(map(repr, _TURNS))}")

    def _images(self, x: Tensor, step: Step) -> Tensor:
        turned = torch.stack([x.flip(t) for t in _TURNS[self.axis]])
        if not isinstance(step, Tensor) or not step.ndim:
            return turned.mean(0)
        return average(turned, torch.stack([step.flip(t) for t in _TURNS[self.axis]]), 0).squeeze(0)


_TURNS: dict[str, tuple[tuple[int, ...], ...]] = {
    "both": ((), (-1,), (-2,), (-2, -1)),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "point": ((), (-2, -1)),
}


@dataclass(frozen=True, eq=False, repr=False)
class RadialMonotone(_Images):
    """Images that do not rise away from their centre: each pixel at most what lies one ring nearer to the centre.

    No proximal operator: it minimises nothing. From the centre outwards, a pixel on the square ring r is cut to the value
    where its ray to the centre crosses the ring r - 1, interpolated between the two nearest pixels there. A peak that is not
    at the centre is cut off. center is (row, column), or None for (height // 2, width // 2), where CenterOn puts the peak.
    (Source: Melchior et al. 2018, who weigh the nearer neighbours by their angle.)

    >>> RadialMonotone(0, (1, 5))(torch.tensor([1.0, 4.0, 3.0, 1.0, 2.0]))
    tensor([1., 3., 3., 1., 1.])
    """

    dim: int
    shape: tuple[int, int]
    center: tuple[int, int] | None = None
    alias = "radial"
    formula = "falling from the centre of an image along dim"
    convex = False
    exact = False
    metric = "group"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center is not None:
            row, column = self._pair("center", 0)
            if row >= self.shape[0] or column >= self.shape[1]:
                raise ValueError(f"center of RadialMonotone is {self.center}, outside an image of shape {self.shape}")
            object.__setattr__(self, "center", (row, column))

    def _images(self, x: Tensor, step: Step) -> Tensor:
        h, w = self.shape
        order, back, rings = _rings(h, w, *(self.center or (h // 2, w // 2)))
        inner, *outer = x.flatten(-2)[..., order.to(x.device)].split([1, *(len(near) for near, _, _ in rings)], -1)
        done = [inner]
        for ring, (near, far, share) in zip(outer, rings, strict=True):
            near, far, share = near.to(x.device), far.to(x.device), share.to(x)
            done.append(torch.minimum(ring, torch.lerp(done[-1][..., near], done[-1][..., far], share)))
        return torch.cat(done, -1)[..., back.to(x.device)].unflatten(-1, self.shape)


@lru_cache(maxsize=32)
def _rings(h: int, w: int, row: int, column: int) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """The pixels ring by ring, the way back, and for each ring its two inner neighbours and the share of the second."""
    y, x = torch.meshgrid(torch.arange(h) - row, torch.arange(w) - column, indexing="ij")
    y, x = y.flatten(), x.flatten()
    radius = torch.maximum(y.abs(), x.abs())
    order = radius.argsort(stable=True)
    back = order.argsort()
    first = torch.searchsorted(radius[order], radius)  # where the ring of a pixel begins
    place = (back - first).reshape(h, w)
    rings = []
    for r in range(1, int(radius.max()) + 1):
        here = order[radius[order] == r]
        down, right = y[here] * (r - 1), x[here] * (r - 1)
        near = place[row + down.div(r, rounding_mode="floor"), column + right.div(r, rounding_mode="floor")]
        far = place[row - (-down).div(r, rounding_mode="floor"), column - (-right).div(r, rounding_mode="floor")]
        rings.append((near, far, torch.maximum(down % r, right % r).double() / r))
    return order, back, rings


@dataclass(frozen=True, eq=False, repr=False)
class CenterOn(_Images):
    """Images moved by whole pixels so that their peak, or their centre of mass, lies at (height // 2, width // 2).

    No proximal operator: it minimises nothing. What leaves the image is lost, what comes in is 0. by is "peak" (the
    brightest pixel, the first of several) or "centroid" (of the positive part, to the nearest pixel; an image without one
    stays). (Source: the deblender scarlet, Melchior et al. 2018.)

    >>> CenterOn(0, (1, 5))(torch.tensor([5.0, 2.0, 1.0, 0.0, 0.0]))
    tensor([0., 0., 5., 2., 1.])
    """

    dim: int
    shape: tuple[int, int]
    by: Literal["peak", "centroid"] = "peak"
    alias = "centered"
    formula = "peak at the centre of an image along dim"
    convex = False
    exact = False
    metric = "group"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("peak", "centroid"):
            raise ValueError(f"by of CenterOn is {self.by!r}; known: 'peak', 'centroid'")

    def _images(self, x: Tensor, step: Step) -> Tensor:
        h, w = self.shape
        rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        if self.by == "peak":
            peak = x.flatten(-2).argmax(-1)
            down, right = peak.div(w, rounding_mode="floor") - h // 2, peak % w - w // 2
        else:
            mass = x.detach().clamp(min=0)
            mass = mass / mass.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            total = mass.sum((-2, -1))
            down = _moment(mass.sum(-1), rows - h // 2, total)
            right = _moment(mass.sum(-2), columns - w // 2, total)
        rows, columns = rows + down[..., None], columns + right[..., None]
        inside = ((rows >= 0) & (rows < h))[..., None] & ((columns >= 0) & (columns < w))[..., None, :]
        moved = x.gather(-2, rows.clamp(0, h - 1)[..., None].expand(x.shape))
        return torch.where(inside, moved.gather(-1, columns.clamp(0, w - 1)[..., None, :].expand(x.shape)), 0.0)


def _moment(mass: Tensor, place: Tensor, total: Tensor) -> Tensor:
    """The centre of mass of each row, to the nearest whole number; 0 where there is no mass."""
    return torch.where(total > 0, (mass * place).sum(-1) / total.where(total > 0, 1.0), 0.0).round().long()
