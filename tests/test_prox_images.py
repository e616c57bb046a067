"""What is particular to the operators on images: what they do to a picture, and that they say what they are."""

import math

import pytest
import torch
from operators import INF, drawn, tensor

from proxfactor.prox import Prox
from proxfactor.prox.images import CenterOn, MirrorSymmetric, RadialMonotone

TURNS = {"horizontal": [(-1,)], "vertical": [(-2,)], "point": [(-2, -1)], "both": [(-1,), (-2,)]}


def pictures(y, shape, dim=-1):
    return y.movedim(dim, -1).unflatten(-1, shape)


@pytest.mark.parametrize("axis", TURNS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (5, 4), (1, 6), (30, 34)], ids=str)
def test_a_mirrored_image_averages_each_orbit_by_its_weights(axis, shape):
    n = shape[0] * shape[1]
    x, s = drawn(0, 3, n), 10 ** drawn(1, 3, n)
    for step in (1.0, s):
        y = MirrorSymmetric(1, shape, axis)(x, step)
        assert all(torch.allclose(pictures(y, shape).flip(t), pictures(y, shape), rtol=1e-9, atol=1e-12) for t in TURNS[axis])
        off = (x - y) / step  # is orthogonal to every symmetric image
        sym = MirrorSymmetric(1, shape, axis)(drawn(2, 3, n))
        assert (off * sym).sum().abs() <= 1e-9 * (off * sym).abs().sum() + 1e-9


def test_a_step_of_zero_keeps_a_pixel_and_an_infinite_one_counts_only_among_its_like():
    x = tensor(1.0, 3.0, 5.0, 9.0)
    mirror = MirrorSymmetric(0, (1, 4), "horizontal")
    assert mirror(x, tensor(0.0, 1.0, INF, 2.0)).tolist() == [1, 3, 3, 1]
    assert mirror(x, tensor(0.0, INF, INF, 0.0)).tolist() == [5, 4, 4, 5]
    assert mirror(x, tensor(3.0, 1.0, 1.0, 1.0)).tolist() == pytest.approx([7, 4, 4, 7])


def naive_radial(image, row, column):
    """Pixel by pixel in the order of the rings."""
    h, w = image.shape
    y = image.clone()
    cells = sorted((max(abs(i - row), abs(j - column)), i, j) for i in range(h) for j in range(w))
    for r, i, j in cells[1:]:
        di, dj = (i - row) * (r - 1) / r, (j - column) * (r - 1) / r
        a, b = (math.floor(di + 1e-9), math.floor(dj + 1e-9)), (math.ceil(di - 1e-9), math.ceil(dj - 1e-9))
        part = max(di - a[0], dj - a[1])
        limit = (1 - part) * y[row + a[0], column + a[1]] + part * y[row + b[0], column + b[1]]
        y[i, j] = min(y[i, j], limit)
    return y


@pytest.mark.parametrize("center", [None, (0, 0), (2, 6), (5, 3)], ids=str)
def test_the_rings_are_those_of_a_loop(center):
    x = drawn(3, 4, 6 * 7)
    op = RadialMonotone(1, (6, 7), center)
    y = pictures(op(x), (6, 7))
    for i in range(4):
        assert torch.allclose(y[i], naive_radial(x[i].reshape(6, 7), *(center or (3, 3))), atol=1e-12)
    assert torch.equal(op(op(x)), op(x))
    assert torch.equal(RadialMonotone(0, (6, 7), center)(x.mT), op(x).mT)


def test_a_falling_image_stays_and_a_second_peak_is_cut():
    i, j = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing="ij")
    peak = torch.exp(-((i - 7) ** 2 + (j - 7) ** 2) / 18)
    falling = RadialMonotone(0, (15, 15))
    assert torch.allclose(falling(peak.flatten()), peak.flatten(), atol=2e-3)  # interpolation between two pixels
    second = peak + 0.8 * torch.exp(-((i - 2) ** 2 + (j - 12) ** 2) / 2)
    cut = falling(second.flatten()).reshape(15, 15)
    assert cut[2, 12] < 0.5 < second[2, 12]
    assert (cut <= second).all()
    assert cut[7, 7] == second[7, 7]


def test_a_peak_is_moved_to_the_centre_and_what_comes_in_is_zero():
    x = torch.zeros(2, 3, 5)
    x[0, 0, 1], x[0, 1, 1] = 5, 2
    x[1, 2, 4], x[1, 0, 0] = 3, 1
    y = CenterOn(1, (3, 5))(x.flatten(1)).reshape(2, 3, 5)
    assert (y[0, 1, 2], y[0, 2, 2], y[0].sum()) == (5, 2, 7)
    assert (y[1, 1, 2], y[1].sum()) == (3, 3)  # the other one has left the image
    assert torch.equal(CenterOn(1, (3, 5))(y.flatten(1)), y.flatten(1))


def test_a_centre_of_mass_is_moved_to_the_nearest_pixel_and_an_image_without_one_stays():
    x = torch.zeros(3, 5, 5)
    x[0, 0, :3] = 1
    x[1] = -1
    y = CenterOn(1, (5, 5), by="centroid")(x.flatten(1)).reshape(3, 5, 5)
    assert torch.equal(y[0, 2, 1:4], torch.ones(3))
    assert y[0].sum() == 3
    assert torch.equal(y[1:], x[1:])
    assert torch.equal(CenterOn(1, (5, 5), by="centroid")(1e38 * x.flatten(1)), 1e38 * y.flatten(1))


@pytest.mark.parametrize("op", [RadialMonotone(1, (2, 3)), CenterOn(1, (2, 3)), CenterOn(1, (2, 3), "centroid")], ids=repr)
def test_a_heuristic_says_that_it_is_one(op):
    assert (op.convex, op.exact, op.metric) == (False, False, "group")
    assert "minimises nothing" in type(op).__doc__
    y = op(drawn(4, 5, 6).abs())
    assert op.violation(RadialMonotone(1, (2, 3))(y)).shape == (5, 1)
    assert op(torch.zeros(0, 6)).shape == (0, 6)


@pytest.mark.parametrize("kind", [MirrorSymmetric, RadialMonotone, CenterOn])
def test_a_shape_must_fit_the_slices(kind):
    op = kind(1, [2, 3])
    assert op.shape == (2, 3)
    assert repr(Prox.parse(repr(op))) == repr(op) == f"{kind.__name__}(dim=1, shape=(2, 3))"
    op.check((4, 6), "H")
    with pytest.raises(ValueError, match=r"needs slices of 2 · 3 = 6 pixels; H of shape \(4, 5\) has 5 along dim 1"):
        op.check((4, 5), "H")
    with pytest.raises(ValueError, match="6 pixels; x of shape"):
        op(torch.ones(4, 7))
    with pytest.raises(ValueError, match="dim is 2"):
        kind(2, (2, 3)).check((6, 6), "H")
    for shape in [3, (2,), (2, 3, 1), (0, 3), (2.5, 2), "ab", (True, 2)]:
        with pytest.raises(ValueError, match=f"shape of {kind.__name__} is .*height, width"):
            kind(1, shape)


def test_other_fields_are_checked():
    with pytest.raises(ValueError, match="outside an image"):
        RadialMonotone(1, (2, 3), center=(2, 0))
    with pytest.raises(ValueError, match="row, column"):
        RadialMonotone(1, (2, 3), center=(-1, 0))
    with pytest.raises(ValueError, match="known: 'both', 'horizontal'"):
        MirrorSymmetric(1, (2, 3), "diagonal")
    with pytest.raises(ValueError, match="known: 'peak', 'centroid'"):
        CenterOn(1, (2, 3), by="edge")
