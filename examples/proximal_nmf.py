"""Constrained matrix factorization with autograd, from a bare gradient step to PGM, on data whose factors are known.

    python examples/proximal_nmf.py

Y (bands x pixels) mixes K spectra, the columns of A, with the amounts in S:  Y = A S + noise.
"""

import torch
from torch import nn

from proxfactor import PGM, Entropy, NonNegative, Normalize, Simplex


class NMF(nn.Module):
    """Y ≈ A S, with both factors drawn at random."""

    def __init__(self, bands, pixels, rank, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.rand(bands, rank, generator=draw) / bands * 2)
        self.S = nn.Parameter(torch.rand(rank, pixels, generator=draw))

    def forward(self):
        return self.A @ self.S


def mixture(bands=30, pixels=80, rank=3, noise=1e-3, seed=1):
    """Y and the factors behind it: spectra are bumps that sum to one, most pixels hold two of the three."""
    draw = torch.Generator().manual_seed(seed)
    grid, centres = torch.linspace(0, 1, bands)[:, None], torch.linspace(0.2, 0.8, rank)
    A = torch.exp(-(((grid - centres) / 0.08) ** 2))
    A = A / A.sum(dim=0)
    S = torch.rand(rank, pixels, generator=draw) * 4
    S[torch.randint(rank, (pixels,), generator=draw), torch.arange(pixels)] = 0
    return A @ S + noise * torch.randn(bands, pixels, generator=draw), A, S


def stepsizes(nmf):
    """Half of 1/L for each factor: the squared error has curvature 2 |S Sᵀ| in A and 2 |Aᵀ A| in S, and both move at once."""
    A, S = nmf.A.detach(), nmf.S.detach()
    return 0.25 / torch.linalg.matrix_norm(S @ S.mT, 2), 0.25 / torch.linalg.matrix_norm(A.mT @ A, 2)


def by_hand(Y, prox_A, prox_S, n_epoch=400, rank=3):
    """The loop without an optimizer: a gradient step, then the prox, which autograd never sees."""
    nmf, loss_fn = NMF(*Y.shape, rank), nn.MSELoss(reduction="sum")
    for _ in range(n_epoch):
        nmf.zero_grad()
        loss_fn(nmf(), Y).backward()
        with torch.no_grad():
            for param, step, prox in zip(nmf.parameters(), stepsizes(nmf), (prox_A, prox_S), strict=True):
                param.copy_(prox(param - step * param.grad, step))
    return nmf


def by_optimizer(Y, proxs, n_epoch=400, rank=3, **options):
    """The same with PGM: one prox and one lr for each param group."""
    nmf, loss_fn = NMF(*Y.shape, rank), nn.MSELoss(reduction="sum")
    groups = [{"params": nmf.A, "lr": 2e-4}, {"params": nmf.S, "lr": 0.3}]  # |S Sᵀ| is large and |Aᵀ A| small: so are the steps
    optimizer = PGM(groups, proxs, **options)
    for _ in range(n_epoch):
        optimizer.zero_grad()
        loss_fn(nmf(), Y).backward()
        optimizer.step()
    return nmf


def report(name, nmf, Y, A):
    """Relative error; cosine of the true spectrum that is found worst; smallest entry; mean column sum of A; zeros in S."""
    with torch.no_grad():
        cosines = nn.functional.normalize(nmf.A, dim=0).mT @ nn.functional.normalize(A, dim=0)
        measures = {
            "error": (nmf() - Y).norm() / Y.norm(),
            "cosine": cosines.amax(0).min(),
            "smallest": min(nmf.A.min(), nmf.S.min()),
            "sum": nmf.A.sum(dim=0).mean(),
            "zeros": (nmf.S == 0).float().mean(),
        }
    measures = {key: value.item() for key, value in measures.items()}
    print(f"{name:36}", *(f"{key} {value:7.4f}  " for key, value in measures.items()))
    return measures


def main():
    Y, A, _ = mixture()
    plus, simplex, unity, entropy = nn.Threshold(0, 0), Simplex(dim=0), Normalize(dim=0), Entropy(1e-4)
    fits = {
        "gradient steps": by_hand(Y, lambda x, step: x, lambda x, step: x),
        "non-negative, nn.Threshold(0, 0)": by_hand(Y, lambda x, step: plus(x), lambda x, step: plus(x)),
        "columns rescaled to one, Normalize": by_hand(Y, lambda x, step: unity(plus(x)), NonNegative()),
        "columns projected to one, Simplex": by_hand(Y, simplex, NonNegative()),
        "Simplex and entropy": by_hand(Y, simplex, entropy),
        "PGM, one prox for all": by_optimizer(Y, plus),
        "PGM, one prox each": by_optimizer(Y, [simplex, "nonneg"]),
        "PGM, one prox each, momentum": by_optimizer(Y, [simplex, "nonneg"], momentum=0.5),
        "PGM, entropy": by_optimizer(Y, [simplex, entropy], momentum=0.5),
        "PGM, sparse amounts": by_optimizer(Y, [simplex, "nonneg + l1(0.002)"], momentum=0.5),
    }
    return {name: report(name, nmf, Y, A) for name, nmf in fits.items()}


if __name__ == "__main__":
    main()
