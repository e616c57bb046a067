"""Two stars in one spectrum: a physical model that autograd differentiates, each part of it under its own constraint.

    python examples/blended_spectra.py

A spectrograph sees two sources at once, each with emission lines at known places that its motion shifts (on a grid of log λ by
the same number of pixels everywhere) and its turbulence widens, on top of a continuum that falls towards the red; the slit blurs
it all, and the detector answers unevenly:

    target = response ∘ (slit ⋆ (continuum + Σ amounts · lines(shift, width))) + noise,    lamp = response + noise

The response is smooth, the continuum never rises, amounts are not negative (some are zero), shifts and widths are bounded. There
is no learning rate: PGM finds a step for each of the five parameters, whose units have nothing in common.
"""

import math

import torch
from torch import nn

from proxfactor import PGM, Box, Isotonic, NonNegative, Smooth
from proxfactor.modules import constrain, param_groups

PIXELS, SLIT, NOISE = 200, 1.5, 0.02
PLACES = torch.tensor([[22, 51, 78, 110, 143, 171], [30, 58, 83, 104, 150, 178]], dtype=torch.float64)  # of both sources' lines


class Blend(nn.Module):
    """The model; shifts, widths and the slit's are in pixels."""

    def __init__(self):
        super().__init__()
        self.continuum = nn.Parameter(torch.ones(PIXELS, dtype=torch.float64))
        self.response = nn.Parameter(torch.ones(PIXELS, dtype=torch.float64))
        self.amounts = nn.Parameter(torch.full(PLACES.shape, 0.5, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
        self.width = nn.Parameter(torch.full((2, 1), 2.5, dtype=torch.float64))
        reach = torch.arange(-8, 9, dtype=torch.float64)
        slit = torch.exp(-0.5 * (reach / SLIT) ** 2)
        self.register_buffer("slit", (slit / slit.sum())[None, None])

    def forward(self):
        away = torch.arange(PIXELS, dtype=torch.float64) - (PLACES + self.shift)[..., None]
        lines = (self.amounts[..., None] * torch.exp(-0.5 * (away / self.width[..., None]) ** 2)).sum((0, 1))
        sky = nn.functional.pad((self.continuum + lines)[None, None], (8, 8), mode="replicate")
        return self.response * nn.functional.conv1d(sky, self.slit)[0, 0], self.response


def truth():
    """The model with the values that are to be found: the continuum falls in steps, each source lacks two of its lines."""
    model, x = Blend(), torch.linspace(0, 1, PIXELS, dtype=torch.float64)
    with torch.no_grad():
        model.continuum.copy_(2.0 - 0.5 * (x > 0.3) - 0.4 * (x > 0.62) - 0.3 * x)
        model.response.copy_(1 + 0.25 * torch.sin(2 * math.pi * x) - 0.2 * x)
        model.amounts.copy_(torch.tensor([[1.0, 0.0, 0.7, 1.2, 0.0, 0.5], [0.6, 0.9, 0.0, 0.8, 1.1, 0.0]], dtype=torch.float64))
        model.shift.copy_(torch.tensor([[2.3], [-1.7]], dtype=torch.float64))
        model.width.copy_(torch.tensor([[1.8], [3.0]], dtype=torch.float64))
    return model


def observed(seed=0):
    """The target's and the lamp's spectrum, with noise."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return [clean + NOISE * torch.randn(PIXELS, dtype=torch.float64, generator=draw) for clean in truth()()]


def fit(target, lamp, steps):
    model = Blend()
    constrain(model, "continuum", Isotonic(dim=0, decreasing=True))
    constrain(model, "response", Smooth(dim=0, lam=1e3, order=2))
    constrain(model, "amounts", NonNegative())
    constrain(model, "shift", Box(-6, 6))
    constrain(model, "width", Box(1, 5))
    optimizer = PGM(param_groups(model))

    def closure():
        optimizer.zero_grad()
        seen, flat = model()
        loss = ((seen - target).square().sum() + (flat - lamp).square().sum()) / 2
        loss.backward()
        return loss

    for step in range(1, steps + 1):
        optimizer.step(closure)
        if step % 25 == 0 and optimizer.converged(1e-5):
            break
    return model, step


@torch.no_grad()
def main(quick=False):
    target, lamp = observed()
    with torch.enable_grad():
        model, steps = fit(target, lamp, 300 if quick else 1500)
    true = truth()
    for name in ("shift", "width", "amounts"):
        for source in (0, 1):
            pairs = zip(getattr(true, name)[source], getattr(model, name)[source], strict=True)
            print(f"{name:8} of source {source + 1}, true → found: ", *(f"{a:6.2f} → {b:5.2f}" for a, b in pairs))
    errors = {name: ((getattr(model, name) - p).norm() / p.norm()).item() for name, p in true.named_parameters()}
    residual = ((model()[0] - target).square().mean().sqrt() / NOISE).item()
    print(f"after {steps} steps, relative errors:", ", ".join(f"{name} {error:.3f}" for name, error in errors.items()))
    print(f"residual of the target: {residual:.2f} times the noise")
    return {"errors": errors, "residual": residual, "model": model, "truth": true}


if __name__ == "__main__":
    main()
