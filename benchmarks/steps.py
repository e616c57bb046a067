"""What a step costs: the proximal optimizers beside torch's own, on one float32 parameter.

    python benchmarks/steps.py [--numbers 10000000] [--rounds 15] [--threads 2]

Every figure is the median over rounds; in each round every optimizer takes one step, one after the other, so that what
else the machine does falls on all alike. The gradient is the same for all and stays. What counts are the ratios, to SGD
for PGM and to Adam for ProxAdam, both with torch's defaults. Memory: one parameter per optimizer, and its state.
"""

import argparse
import platform
import statistics
import time

import torch
from torch.optim import SGD, Adam

from proxfactor.optim.adam import ProxAdam
from proxfactor.optim.pgm import PGM

BARS = {"PGM": 2.0, "PGM auto": 6.0, "ProxAdam": 1.3}  # of a step with an element-wise operator


def contestants():
    """(name, operator, what it is compared with, how it is made)."""
    yield "SGD", "", "SGD", lambda p: SGD(p, lr=1e-3)
    for prox in (None, "nonneg", "l1(1e-3)"):
        yield "PGM", prox or "none", "SGD", lambda p, prox=prox: PGM(p, prox, lr=1e-3)
    for prox in (None, "nonneg", "l1(1e-3)"):
        yield "PGM auto", prox or "none", "SGD", lambda p, prox=prox: PGM(p, prox, lr="auto")
    yield "Adam", "", "Adam", lambda p: Adam(p)
    for prox in (None, "nonneg", "l1(1e-3)", "nonneg + l1(1e-3)", "simplex(dim=1)"):
        yield "ProxAdam", prox or "none", "Adam", lambda p, prox=prox: ProxAdam(p, prox)


def started(name, make, start, grad):
    """An optimizer with the steps behind it in which it looks for its scale, or None where it does not exist."""
    w = torch.nn.Parameter(start.clone())
    w.grad = grad
    try:
        optimizer = make([w])
        for _ in range(16):
            optimizer.step()
    except (TypeError, ValueError) as missing:
        print(f"{name} left out: {missing}")
        return None
    return optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=10**7)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    start, grad = torch.rand(options.numbers // 10, 10), torch.randn(options.numbers // 10, 10)
    field = [(name, prox, rival, started(name, make, start, grad)) for name, prox, rival, make in contestants()]
    field = [entry for entry in field if entry[3] is not None]
    times = [[] for _ in field]
    for _ in range(options.rounds):
        for spent, (*_, optimizer) in zip(times, field, strict=True):
            begun = time.perf_counter()
            optimizer.step()
            spent.append(1e3 * (time.perf_counter() - begun))
    medians = [statistics.median(spent) for spent in times]
    base = {name: ms for (name, *_), ms in zip(field, medians, strict=True) if name in ("SGD", "Adam")}
    print(f"{platform.processor() or platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}; {start.numel():,} numbers, {options.rounds} rounds\n")
    print(f"{'optimizer':10} {'operator':18} {'ms':>8} {'ratio':>6}   to     bar")
    for (name, prox, rival, _), ms in zip(field, medians, strict=True):
        bar = f"{BARS[name]:.1f}" if name in BARS and not prox.startswith("simplex") else ""
        print(f"{name:10} {prox:18} {ms:8.1f} {ms / base[rival]:6.2f}   {rival:5} {bar:>4}")


if __name__ == "__main__":
    main()
