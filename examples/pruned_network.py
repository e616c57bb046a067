"""A network that loses neurons while it learns: group lasso in a proximal optimizer, beside AdamW and magnitude pruning.

    python examples/pruned_network.py

A penalty λ √n Σ ‖row‖₂ on the weights of a layer with n inputs lets whole rows, that is neurons, be exactly zero, and `compact`
takes them out. The rival trains with AdamW, keeps the neurons of largest norm, as many in each layer as the penalty has left, and
goes on training. All get the same number of epochs and the same rate; scikit-learn's handwritten digits, three seeds.

What comes out is mixed. The penalty finds the sizes of both layers, which the rival has to be told; told them, the rival is
ahead in accuracy, since the penalty also shrinks the neurons that stay, and its steps cost less.
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import nn

from proxfactor import GroupLasso
from proxfactor.modules import compact, param_groups
from proxfactor.optim.adam import ProxAdam

HIDDEN, LR = ("0", "2"), 2e-3  # the layers whose neurons may go; one rate for all


def digits(seed=0):
    """Pixels in [0, 1] and labels of 1297 images to learn from and 500 to test."""
    data = load_digits()
    X, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return (X[order[:1297]], y[order[:1297]]), (X[order[1297:]], y[order[1297:]])


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def train(net, optimizer, X, y, epochs, seed, batch=64):
    """Some epochs of mini-batches, and the seconds they took."""
    draw, loss_fn, start = torch.Generator().manual_seed(seed), nn.CrossEntropyLoss(), time.perf_counter()
    for _ in range(epochs):
        for part in torch.randperm(len(y), generator=draw).split(batch):
            optimizer.zero_grad()
            loss_fn(net(X[part]), y[part]).backward()
            optimizer.step()
    return time.perf_counter() - start


def by_penalty(X, y, epochs, seed, lam=0.004):
    """A third of the epochs for all neurons, a third with the penalty, a third without it for the neurons that are left."""
    net, third = network(seed), epochs // 3
    seconds = train(net, torch.optim.AdamW(net.parameters(), lr=LR), X, y, third, seed)
    weights = {f"{layer}.weight": lam * net.get_submodule(layer).in_features ** 0.5 for layer in HIDDEN}
    groups = param_groups(net, {name: GroupLasso(dim=1, lam=weight) for name, weight in weights.items()})
    seconds += train(net, ProxAdam(groups, lr=LR), X, y, third, seed + 1)
    small = compact(net, X[:8])
    return small, seconds + train(small, torch.optim.AdamW(small.parameters(), lr=LR), X, y, epochs - 2 * third, seed + 2)


def by_magnitude(X, y, epochs, seed, sizes):
    """Two thirds of the epochs for all neurons, a third for the largest ones, as many as sizes says."""
    net, third = network(seed), epochs // 3
    seconds = train(net, torch.optim.AdamW(net.parameters(), lr=LR), X, y, 2 * third, seed)
    for layer, size in zip(HIDDEN, sizes, strict=True):
        linear = net.get_submodule(layer)
        with torch.no_grad():
            least = linear.weight.norm(dim=1).argsort()[: linear.out_features - size]
            linear.weight[least] = linear.bias[least, None] = 0
    small = compact(net, X[:8])
    return small, seconds + train(small, torch.optim.AdamW(small.parameters(), lr=LR), X, y, epochs - 2 * third, seed + 2)


@torch.no_grad()
def measured(net, seconds, X, y):
    sizes, times = [net.get_submodule(layer).out_features for layer in HIDDEN], []
    for _ in range(100):
        start = time.perf_counter()
        right = net(X).argmax(1) == y
        times.append(time.perf_counter() - start)
    numbers = sum(p.numel() for p in net.parameters())
    accuracy, each = right.double().mean().item(), sorted(times)[50]
    return {"neurons": sizes, "parameters": numbers, "accuracy": accuracy, "training": seconds, "prediction": 1e6 * each}


def main(quick=False):
    epochs, seeds = (12, range(1)) if quick else (45, range(3))
    runs = {"AdamW, all neurons": [], "AdamW, magnitude pruning": [], "ProxAdam, group lasso, compact": []}
    train_set, test_set = digits()
    for seed in seeds:
        ours = measured(*by_penalty(*train_set, epochs, seed), *test_set)
        rivals = [by_magnitude(*train_set, epochs, seed, sizes) for sizes in ((128, 64), ours["neurons"])]
        for rows, row in zip(runs.values(), [*(measured(*rival, *test_set) for rival in rivals), ours], strict=True):
            rows.append(row)
    for name, rows in runs.items():
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("parameters", "accuracy", "training", "prediction")}
        neurons = ", ".join("{} + {}".format(*row["neurons"]) for row in rows)
        each = ", ".join(f"{row['accuracy']:.3f}" for row in rows)
        print(f"{name:31} accuracy {mean['accuracy']:.3f} ({each})  neurons {neurons}")
        print(
            f"{'':31} {mean['parameters']:.0f} numbers, training {mean['training']:.1f} s, prediction {mean['prediction']:.0f} µs"
        )
    return runs


if __name__ == "__main__":
    main()
