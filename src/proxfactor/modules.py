"""Structure in any nn.Module: operators that belong to its parameters, param groups by name, units that are zero taken out."""

from __future__ import annotations

import copy
import difflib
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .prox import Prox, as_prox

Spec = Prox | str | Callable | None


# ── operators of parameters ───────────────────────────────────────────────────────────────────────────────────────────


class _Slot(NamedTuple):
    """Where a parameter hangs."""

    owner: nn.Module
    leaf: str
    param: Tensor

    @property
    def prox(self) -> Prox | None:
        return self.owner.__dict__.get("_proxs", {}).get(self.leaf)

    def keep(self, prox: Prox | None) -> None:
        """A plain dict of the module: copies and pickles take it along, state_dict does not."""
        if prox is not None:
            self.owner.__dict__.setdefault("_proxs", {})[self.leaf] = prox
        elif self.prox is not None:
            del self.owner.__dict__["_proxs"][self.leaf]


def constrain(module: nn.Module, name: str, prox: Spec) -> nn.Module:
    """Let a parameter of a module have an operator, which ``param_groups`` picks up; returns the module.

    name may reach into submodules, "decoder.0.weight". The parameter moves to the nearest point of the operator's set at once;
    a penalty moves nothing, but for rounding. The operator stays with the module in copies and pickles, and out of
    ``state_dict``; None takes it away. Raises ValueError for a name that is no parameter, an operator that does not fit its
    shape, a parameter that parametrize computes, one without values yet, or a second operator under another name of a tied
    parameter.

    >>> layer = constrain(nn.Linear(3, 2), "weight", "nonneg")
    >>> bool((layer.weight >= 0).all())
    True
    """
    slots = _slots(module)
    if name not in slots:
        raise _unknown(module, name, slots)
    slot = slots[name]
    tied = {other: s for other, s in slots.items() if s.param is slot.param}
    if prox is None:
        for s in tied.values():
            s.keep(None)
        return module
    op = as_prox(prox)
    for other, s in tied.items():
        if other != name and s.prox is not None and not _same(s.prox, op):
            raise ValueError(
                f"{name} is tied to {other}, which has {s.prox!r}; one parameter takes one operator: "
                f"add them up, or take that away with constrain(module, {other!r}, None)"
            )
    near = _nearest(op, slot.param, name)
    with torch.no_grad():
        slot.param.copy_(near)
    slot.keep(op)
    return module


def param_groups(module: nn.Module, proxs: Mapping[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
    """Param groups with names and operators, for any optimizer here: {"A": Simplex(dim=0), "decoder.*": NonNegative()}.

    A key is a dotted parameter name or a pattern of them (``*``, ``?``, ``[…]``); of several that match, the first one counts.
    A value is an operator, or a dict of an operator under "prox" and options of its own, {"prox": …, "lr": …}; without "prox" the
    operator stays as it is. What ``constrain`` has registered is taken over; all that is left makes one group without constraint.
    options are for all groups. A tied parameter comes once, a frozen one not at all; nothing is moved.

    Raises ValueError for a key that matches nothing, or nothing that earlier keys have left; for two different operators (or
    options) for one parameter; and for an operator that does not fit the shape.

    >>> for group in param_groups(nn.Linear(3, 2), {"weight": "nonneg"}, lr=0.1):
    ...     print([name for name, _ in group["params"]], group["prox"], group["lr"])
    ['weight'] NonNegative() 0.1
    ['bias'] Unconstrained() 0.1
    """
    if "prox" in options:
        raise ValueError("prox=… for all groups: write it as the last pattern, {…, '*': prox}")
    slots, entries = _slots(module), [_entry(key, value) for key, value in (proxs or {}).items()]
    taken = {name: next((e for e in entries if fnmatchcase(name, e.key)), None) for name in slots}
    for e in entries:
        matched = [name for name in slots if fnmatchcase(name, e.key)]
        if not matched:
            raise _unknown(module, e.key, slots)
        if not any(taken[name] is e for name in matched):
            earlier = next(other.key for other in entries if other is taken[matched[0]])
            raise ValueError(
                f"{e.key!r} matches nothing that {earlier!r} has left; the first match counts, so put {e.key!r} before it"
            )
    groups: list[dict[str, Any]] = []
    for entry in [*entries, None]:
        found: list[tuple[Prox, list[tuple[str, Tensor]]]] = []
        for name, param, prox in _members(slots, taken, entry):
            same = next((params for other, params in found if _same(other, prox)), None)
            if same is None:
                found.append((prox, same := []))
            same.append((name, param))
        own = entry.options if entry else {}
        groups += [{"params": params, "prox": prox, **options, **own} for prox, params in found]
    return groups


class _Entry(NamedTuple):
    """A key of ``param_groups`` and what it gives; prox is None where it leaves the operator as it is."""

    key: str
    prox: Prox | None
    options: dict[str, Any]


_Said = tuple[str, Prox | None, dict[str, Any]]  # who says it, the operator, the options


def _entry(key: str, value: Any) -> _Entry:
    if not isinstance(value, Mapping):
        return _Entry(key, as_prox(value), {})
    options = {k: v for k, v in value.items() if k != "prox"}
    if "params" in options:
        raise ValueError(f"the options of {key!r} hold 'params'; these are what {key!r} matches")
    return _Entry(key, as_prox(value["prox"]) if "prox" in value else None, options)


def _members(slots: dict[str, _Slot], taken: dict[str, _Entry | None], entry: _Entry | None) -> Iterator[tuple[str, Tensor, Prox]]:
    """Every parameter whose first entry this is: its first name, itself, its operator."""
    names: dict[int, list[str]] = {}
    for name, slot in slots.items():
        if slot.param.requires_grad:
            names.setdefault(id(slot.param), []).append(name)
    for tied in names.values():
        given = [(name, e) for name in tied if (e := taken[name]) is not None]
        if (given[0][1] if given else None) is not entry:
            continue
        kept: list[_Said] = [(f"{name} has", p, {}) for name in tied if (p := slots[name].prox) is not None]
        said: list[_Said] = [(f"{e.key!r} gives {name}", e.prox, e.options) for name, e in given]
        operators = [(who, p) for who, p, _ in kept + said if p is not None]
        for who, p in operators[1:]:
            if not _same(p, operators[0][1]):
                raise ValueError(
                    f"two operators for one parameter: {operators[0][0]} {operators[0][1]!r}, {who} {p!r}; give one: their sum, or "
                    "an earlier key that names it alone (with {} the one from constrain stays)"
                )
        if any(options != said[0][2] for _, _, options in said):
            raise ValueError(
                f"{' and '.join(tied)} are one parameter, but the keys give it different options; give it the same ones"
            )
        prox = operators[0][1] if operators else as_prox(None)
        _nearest(prox, slots[tied[0]].param, tied[0])
        yield tied[0], slots[tied[0]].param, prox


def _slots(module: nn.Module) -> dict[str, _Slot]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"given {type(module).__name__}, an nn.Module is needed")
    return {
        f"{path}.{leaf}" if path else leaf: _Slot(owner, leaf, p)
        for path, owner in module.named_modules(remove_duplicate=False)
        for leaf, p in owner._parameters.items()
        if p is not None
    }


def _unknown(module: nn.Module, name: str, slots: dict[str, _Slot]) -> ValueError:
    kind, (path, _, leaf) = type(module).__name__, name.rpartition(".")
    owner = dict(module.named_modules()).get(path)
    if owner is not None and parametrize.is_parametrized(owner, leaf):
        raw = f"{path}.parametrizations.{leaf}.original".removeprefix(".")
        return ValueError(
            f"{name} of {kind} is computed by torch.nn.utils.parametrize at each use, so that no optimizer can hold it; take the "
            f"parametrization away (remove_parametrizations), or name the parameter behind it, {raw!r}"
        )
    near = difflib.get_close_matches(name, slots, n=3, cutoff=0.5) or difflib.get_close_matches(leaf, slots, n=3, cutoff=0.5)
    few = ", ".join(list(slots)[:8]) + (", …" if len(slots) > 8 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {few or 'none'}"
    return ValueError(f"no parameter of {kind} is called {name!r}; {hint}")


def _nearest(prox: Prox, param: Tensor, name: str) -> Tensor:
    """The nearest point of the operator's set. Raises ValueError, with the parameter's name, if the operator does not fit it."""
    if is_lazy(param) or param.is_meta:
        raise ValueError(f"{name} has no values yet; run the module once, or move it off the meta device, before it gets {prox!r}")
    try:
        near = prox(param.detach(), 0.0)
    except (ValueError, TypeError, IndexError) as error:
        shape = tuple(param.shape)
        raise type(error)(f"{prox!r} does not fit {name} of shape {shape}: {error}; give it to parameters that it fits") from error
    if not bool(near.isfinite().all()):
        fault = "makes" if bool(param.isfinite().all()) else "was given"
        raise ValueError(f"{prox!r} {fault} numbers that are not finite in {name}; start from finite values that it can take")
    return near


def _close(x: Tensor, y: Tensor) -> bool:
    size = torch.maximum(x.abs().amax(), y.abs().amax()) if x.numel() else x.new_zeros(())
    return bool(((x - y).abs() <= torch.finfo(x.dtype).eps ** 0.5 * size).all())


def _same(a: Any, b: Any) -> bool:
    """Whether two operators are the same; they compare by identity themselves."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, Prox) and type(a) is type(b) and hasattr(a, "__dataclass_fields__"):
        return all(_same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, tuple | list) and type(a) is type(b):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))


# ── units that are zero ───────────────────────────────────────────────────────────────────────────────────────────────


class Compacted(NamedTuple):
    """What ``compact`` has done.

    units       layer: units before and after
    kept        layer: why units whose weights are zero stay
    dropped     parameter: its operator, which does not fit what is left
    parameters  numbers in all parameters before and after
    """

    units: dict[str, tuple[int, int]]
    kept: dict[str, str]
    dropped: dict[str, str]
    parameters: tuple[int, int]

    def __str__(self) -> str:
        lines = [f"{name}: {before} → {after} units" for name, (before, after) in self.units.items()]
        lines += [f"{name}: stays as it is: {why}" for name, why in self.kept.items()]
        lines += [f"{name}: {prox} does not fit any more" for name, prox in self.dropped.items()]
        return "\n".join([*lines, f"{self.parameters[0]} → {self.parameters[1]} parameters"])


def compact(module: nn.Module, example_input: Any = None) -> nn.Module:
    """A copy of the module without the units that are zero: smaller layers, the same outputs in eval mode.

    A unit (a row of a Linear, a filter of a Conv1d, 2d or 3d, with the entries of a BatchNorm or PReLU behind it) goes where

    * its weights, or its scale in a BatchNorm, are exactly 0: it is a constant, which is sent through what follows and added to
      the next layers' biases (made where there are none; under zero padding only the constant 0 can be added so); or
    * all weights of the next layers for it are exactly 0.

    The forward is followed by torch.fx through entrywise functions, dropout, pooling, BatchNorm and flatten, to several next
    layers too. What it goes into otherwise keeps its units: the output; additions, concatenations and reshapes; norms over the
    units (LayerNorm, GroupNorm, RMSNorm: their statistics would change); grouped and transposed convolutions; layers that are
    tied, called twice, hooked, or parametrized, whose weights the forward reads; and those that training, or an optional
    argument, uses differently. One unit of a layer always stays.

    example_input, a tensor or a tuple of arguments, is how the module is called: shapes are then known, arguments not given have
    their defaults, and the outputs of both modules are compared. Without it the first dim of inputs is taken to be the batch, and
    a Linear in front of a BatchNorm to see a matrix. Operators of ``constrain`` stay where they fit. ``.compacted`` of the copy, a
    ``Compacted``, says what was done. Raises RuntimeError if the outputs differ by more than rounding.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    >>> net[0].weight.data[1] = 0
    >>> compact(net).compacted.units
    {'0': (3, 2)}
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"given {type(module).__name__}, an nn.Module is needed")
    example = None if example_input is None else example_input if isinstance(example_input, tuple) else (example_input,)
    small = copy.deepcopy(module)
    calls = _calls(small, example)
    try:
        graphs = _graphs(small, calls)
    except Exception as error:  # whatever a forward may raise when it is given proxies
        why = f"it cannot be traced ({_line(error)}); compact the module's parts one by one"
        return _reported(small, module, {"forward": why}, {})
    ndims = {} if example is None else _ndims(small, graphs[0][1], example)
    modes = {m: m.training for m in small.modules()}
    small.eval()
    plan = _agreed([_plan(small, graph, ndims, training) for training, graph in graphs])
    dropped: dict[str, str] = {}
    while sum(_shrink(small, units, dropped) for units in plan.values()):
        pass
    for m, mode in modes.items():
        m.training = mode
    kept = {name: why for name, units in plan.items() if (why := _why_kept(small, units))}
    if [str(g) for _, g in _graphs(small, calls)] != [str(g) for _, g in graphs]:
        whole = copy.deepcopy(module)
        return _reported(whole, module, dict.fromkeys(plan, "the forward computes with the sizes of its layers"), {})
    if example is not None:
        _compare(module, small, example)
    return _reported(small, module, kept, dropped)


def _reported(small: nn.Module, module: nn.Module, kept: dict[str, str], dropped: dict[str, str]) -> nn.Module:
    before, after = dict(module.named_modules()), dict(small.named_modules())
    sizes = {name: (_count(before[name]), _count(m)) for name, m in after.items() if type(m) in _LAYERS}
    for name, slot in _slots(small).items():
        if (prox := slot.prox) is not None and not _fits(prox, slot.param, _slots(module)[name].param):
            dropped[name] = repr(prox)
            slot.keep(None)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (module, small)]
    small.__dict__["compacted"] = Compacted(
        {name: (was, now) for name, (was, now) in sizes.items() if was != now}, kept, dropped, (numbers[0], numbers[1])
    )
    return small


def _fits(prox: Prox, param: Tensor, before: Tensor) -> bool:
    """Whether the operator takes the new shape, and a parameter that was in its set still is."""
    if param.shape == before.shape and torch.equal(param, before):
        return True
    try:
        return _close(prox(param.detach(), 0.0), param.detach()) or not _close(prox(before.detach(), 0.0), before.detach())
    except (ValueError, TypeError, IndexError):
        return False


def _compare(module: nn.Module, small: nn.Module, example: tuple) -> None:
    """Raises RuntimeError if the two give different outputs in eval mode."""
    outs = []
    with torch.random.fork_rng({p.device for p in module.parameters() if p.is_cuda}), torch.no_grad():
        for m in (module, small):
            torch.manual_seed(0)  # a forward may draw
            outs.append(_tensors(copy.deepcopy(m).eval()(*_cloned(example))))
    for was, now in zip(*outs, strict=True):
        if was.shape != now.shape or not _close(was, now):
            away = f"by {float((was - now).abs().max()):.2g}" if was.shape == now.shape else "in shape"
            raise RuntimeError(
                f"the compacted module's output differs {away}, so that it is of no use; is the forward the same each time in eval "
                "mode? Compact parts of the module one by one, and report the one that fails"
            )


def _tensors(out: Any) -> list[Tensor]:
    """All tensors of floating-point numbers in a module's output."""
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() else []
    if isinstance(out, Mapping):
        out = list(out.values())
    return [t for o in out for t in _tensors(o)] if isinstance(out, list | tuple) else []


def _cloned(example: tuple) -> list[Any]:
    return [a.clone() if isinstance(a, Tensor) else a for a in example]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ── the forward, traced ───────────────────────────────────────────────────────────────────────────────────────────────


def _calls(module: nn.Module, example: tuple | None) -> list[dict[str, Any]]:
    """How the forward may be called: the arguments that are no tensors, with optional ones free and at their defaults."""
    signature = inspect.signature(module.forward)
    optional = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
    if example is None:
        return [{}, optional] if optional else [{}]
    given = signature.bind(*example).arguments
    plain = {n: a for n, a in given.items() if a is None or isinstance(a, bool | int | float | str)}
    return [{n: d for n, d in optional.items() if n not in given} | plain]


def _graphs(module: nn.Module, calls: list[dict[str, Any]]) -> list[tuple[bool, fx.Graph]]:
    """The forward in eval mode and in training (which is said), for each way to call it."""
    if "forward" in vars(module):
        raise TypeError("it was replaced on this object")
    scratch = _scratch(module)
    ways = [(training, fixed) for training in (False, True) for fixed in calls]
    return [(training, fx.Tracer().trace(scratch.train(training), dict(fixed))) for training, fixed in ways]


def _scratch(module: nn.Module) -> nn.Module:
    """A copy with the same tensors: a forward may leave things in its module."""
    return copy.deepcopy(module, {id(t): t for t in [*module.parameters(), *module.buffers()]})


@torch.no_grad()
def _ndims(module: nn.Module, graph: fx.Graph, example: tuple) -> dict[str, int]:
    ndims: dict[str, int] = {}
    _Ndims(fx.GraphModule(_scratch(module).eval(), graph), ndims).run(*_cloned(example))
    return ndims


class _Ndims(fx.Interpreter):
    """Notes how many dims the value of each node has."""

    def __init__(self, module: fx.GraphModule, ndims: dict[str, int]):
        super().__init__(module)
        self.ndims = ndims

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if isinstance(out, Tensor):
            self.ndims[n.name] = out.ndim
        return out


# For each unit: whether it is a constant, at every place of every input, and which one. A step carries that on.
Carry = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class _Units:
    """The outputs of one layer, on their way to the layers that take them."""

    layer: str
    at: fx.Node
    path: list[tuple[fx.Node, fx.Node, Carry]] = field(default_factory=list)  # a node, what it looks at, what it does
    sized: list[str] = field(default_factory=list)  # modules on the way that hold numbers for each unit
    takers: list[tuple[fx.Node, str]] = field(default_factory=list)
    count: int = 0  # of a Linear
    inplace: bool = False
    fixed: str = ""  # why no unit may go

    def fix(self, why: str) -> None:
        self.fixed = self.fixed or why

    @property
    def way(self) -> tuple:
        return [str(n.target) for n, *_ in self.path], self.sized, [name for _, name in self.takers], bool(self.fixed)


class _Flow(NamedTuple):
    """A tensor that holds units along a dim, counted from the end, of ndim in all. Flattened units are several entries each."""

    units: _Units
    axis: int
    ndim: int

    def fills(self, m: Any) -> bool:
        """A Linear's units are never several entries each: where they seem to be, flatten has mixed them with other dims."""
        return self.units.count == 0 or _width(m) in (0, self.units.count)


_LAYERS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IDENTITIES = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(Tensor.contiguous, Tensor.clone),
}
_ENTRYWISE = {
    getattr(home, name)
    for home, names in (
        (nn, "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Sigmoid LogSigmoid Hardsigmoid Tanh Tanhshrink"),
        (nn, "Hardtanh Hardswish Hardshrink Softplus Softshrink Softsign Threshold"),
        (F, "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish sigmoid logsigmoid hardsigmoid"),
        (F, "tanh tanhshrink hardtanh hardtanh_ hardswish hardshrink softplus softshrink softsign threshold"),
        (torch, "relu relu_ selu celu sigmoid tanh exp expm1 log1p abs square sqrt sin cos erf neg clamp mul add sub div pow"),
        (Tensor, "relu relu_ sigmoid sigmoid_ tanh tanh_ exp expm1 log1p abs square sqrt sin cos erf neg clamp clamp_ clamp_min"),
        (Tensor, "clamp_max mul add sub div pow"),
        (operator, "neg add sub mul truediv pow"),
    )
    for name in names.split()
}
_AVERAGES: dict[Any, int] = {
    **{nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3, F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3},
    **{nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3},
    **{F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3},
}
_MAXIMA: dict[Any, int] = {
    **{nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3},
    **{nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3},
}
_AVERAGE_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _plan(root: nn.Module, graph: fx.Graph, ndims: dict[str, int], training: bool) -> dict[str, _Units]:
    """Every layer's units, by its name."""
    bound, plan, flows = _bound(root, graph), dict[str, _Units](), dict[fx.Node, _Flow]()
    for node in graph.nodes:
        inputs = [(n, flows[n]) for n in node.all_input_nodes if n in flows]
        called = root.get_submodule(node.target) if node.op == "call_module" else None
        dims = _LAYERS.get(type(called))
        if dims is not None:
            for n, flow in inputs:
                flow.units.takers.append((n, node.target))
                if why := bound.get(node.target) or (
                    "" if flow.axis == -dims - 1 and flow.fills(called) else "looks along other dims"
                ):
                    flow.units.fix(f"its units go into {node.target}, which {why}")
            plan[node.target] = units = _Units(node.target, node, fixed=bound.get(node.target, ""))
            units.count = 0 if dims else _count(called)
            flows[node] = _Flow(units, -dims - 1, ndims.get(node.name, dims + 2))
        elif inputs and not _asks_for_the_batch(node):
            source, flow = inputs[0]
            if _is_view(node, flow.units, flows):
                step = _flattened(flow, 1, -1)
            else:
                alone = node.all_input_nodes == [source] and flow.fills(called)
                step = _step(node, called, flow, bound, training) if alone else None
            if step is None:
                why = "are the output" if node.op == "output" else f"go into {_called(node, called)}"
                for _, flow in inputs:
                    flow.units.fix(f"its units {why}")
                continue
            flow.units.path.append((node, source, step[1]))
            flow.units.inplace |= _inplace(node, called)
            if _width(called):
                flow.units.sized.append(node.target)
            flows[node] = step[0]
    for units in plan.values():
        seen = [units.at, *(n for n, *_ in units.path)]
        if units.inplace and any(len([u for u in n.users if not _asks_for_the_batch(u)]) > 1 for n in seen):
            units.fix("its units are changed in place while others look at them")
        if not units.takers:
            units.fix("no layer takes its units")
    return plan


def _agreed(plans: list[dict[str, _Units]]) -> dict[str, _Units]:
    """The first plan; what another one does otherwise is left alone."""
    first, *others = plans
    for name, units in first.items():
        if any(name not in other or other[name].way != units.way for other in others):
            units.fix("its units are used otherwise in training, or with an optional argument (give example_input)")
    return first


def _bound(root: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Modules with parameters that cannot be resized, and why."""
    slots = {(id(s.owner), s.leaf): s for s in _slots(root).values()}
    owners = Counter(id(s.param) for s in slots.values())
    calls = Counter(id(root.get_submodule(str(n.target))) for n in graph.nodes if n.op == "call_module")
    read = {str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"}
    reasons: dict[str, str] = {}
    for name, m in root.named_modules():
        parameters = [p for p in m._parameters.values() if p is not None]
        for yes, why in (
            (any(owners[id(p)] > 1 for p in parameters), "shares a parameter with another layer"),
            (calls[id(m)] > 1, "is called more than once"),
            (name in read, "has weights that the forward reads"),
            (_hooked(m), "has hooks"),
            (getattr(m, "groups", 1) != 1, "has groups"),
        ):
            if yes:
                reasons.setdefault(name, why)
    return reasons


def _hooked(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m))


def _called(node: fx.Node, called: nn.Module | None) -> str:
    return f"{node.target} ({type(called).__name__})" if called else getattr(node.target, "__name__", str(node.target))


def _measured(node: fx.Node) -> Any:
    """The tensor whose first size this is: x.size(0), x.shape[0]."""
    if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
        return node.args[0]
    shape: Any = node.args[0] if node.target is operator.getitem and node.args[1] == 0 else None
    return shape.args[0] if isinstance(shape, fx.Node) and shape.target is getattr and shape.args[1] == "shape" else None


def _asks_for_the_batch(node: fx.Node) -> bool:
    """Whether only a first size is asked for, which stays the same."""
    shape = node.target is getattr and node.args[1] == "shape"
    return _measured(node) is not None or (shape and all(_measured(u) is not None for u in node.users))


def _is_view(node: fx.Node, units: _Units, flows: dict[fx.Node, _Flow]) -> bool:
    """x.view(x.size(0), -1), whose first size is that of the same units: a batch elsewhere may be another one."""
    if node.target not in ("view", "reshape") or len(node.args) != 3 or node.args[2] != -1 or not isinstance(node.args[1], fx.Node):
        return False
    measured = _measured(node.args[1])
    return measured in flows and flows[measured].units is units


def _inplace(node: fx.Node, called: nn.Module | None) -> bool:
    name = "" if called else getattr(node.target, "__name__", str(node.target))
    return bool(getattr(called, "inplace", False) or node.kwargs.get("inplace") or name.endswith("_"))


# ── what a step makes of units ────────────────────────────────────────────────────────────────────────────────────────


def _unchanged(known: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return known, value


def _zeros_only(known: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return known & (value == 0), value


def _step(node: Any, m: Any, flow: _Flow, bound: dict[str, str], training: bool) -> tuple[_Flow, Carry] | None:
    """Where units are after a node, and what becomes of constants; None if it mixes the units or is not known."""
    kind: Any = type(m) if m is not None else getattr(Tensor, node.target, None) if node.op == "call_method" else node.target
    if m is not None and _hooked(m):
        return None
    if kind in _AVERAGES or kind in _MAXIMA:
        return _pooled(flow, kind, node.kwargs | dict(zip(_AVERAGE_ARGUMENTS, node.args, strict=False)) if m is None else vars(m))
    if kind in _NORMS or (kind is nn.PReLU and m.num_parameters > 1):
        second = flow.axis + flow.ndim == 1
        return (flow, _normed(m) if kind in _NORMS else _sloped(m)) if second and node.target not in bound else None
    if kind in _IDENTITIES or (kind is F.dropout and node.kwargs.get("training") is training):
        return flow, _unchanged
    if kind is nn.Flatten:
        return _flattened(flow, m.start_dim, m.end_dim)
    if kind in (torch.flatten, Tensor.flatten):
        ends = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        return _flattened(flow, ends.get("start_dim", 0), ends.get("end_dim", -1))
    return (flow, _applied(node, m or kind)) if kind in _ENTRYWISE else None


def _applied(node: fx.Node, function: Callable) -> Carry:
    def apply(known: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: value.clone())  # it may work in place
        return known, function(*args, **kwargs)

    return apply


def _flattened(flow: _Flow, start: int, end: int) -> tuple[_Flow, Carry] | None:
    """Only from the units' dim to the last, so that the entries of a unit lie side by side."""
    start, end = start % flow.ndim, end % flow.ndim
    if start != flow.axis + flow.ndim or end != flow.ndim - 1:
        return None
    return _Flow(flow.units, -1, start + 1), _unchanged


def _pooled(flow: _Flow, kind: Any, options: Mapping[str, Any]) -> tuple[_Flow, Carry] | None:
    dims = (_AVERAGES | _MAXIMA)[kind]
    padded = any(_each(options.get("padding", 0)))
    strange = options.get("return_indices") or (padded and kind in _MAXIMA and any(d != 1 for d in _each(options["dilation"])))
    if flow.axis != -dims - 1 or strange:
        return None
    even = kind in _MAXIMA or not ((padded and options.get("count_include_pad", True)) or options.get("divisor_override"))
    return flow, _unchanged if even else _zeros_only


def _each(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _normed(m: Any) -> Carry:
    """A BatchNorm in eval mode; what it scales by 0 is a constant whatever came in."""

    def carry(known: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        known, value = _spread(known, value, m.num_features)
        if m.running_mean is None:  # it looks at the batch even in eval mode
            known = torch.zeros_like(known)
        else:
            value = F.batch_norm(value[None], m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)[0]
        if m.weight is not None:
            known, value = known | (m.weight == 0), torch.where(m.weight == 0, m.bias, value)
        return known, value

    return carry


def _sloped(m: Any) -> Carry:
    def carry(known: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        known, value = _spread(known, value, m.num_parameters)
        return known, F.prelu(value[None], m.weight)[0]

    return carry


def _spread(known: Tensor, value: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """One entry for each of a flattened unit."""
    times = width // len(known) if len(known) else 1
    return known.repeat_interleave(times), value.repeat_interleave(times)


def _width(m: Any) -> int:
    """How many numbers a Linear, a norm or an activation holds for the units that go in; 0 if none for each."""
    if isinstance(m, nn.Linear):
        return m.in_features
    return m.num_features if isinstance(m, _NORMS) else m.num_parameters if isinstance(m, nn.PReLU) and m.num_parameters > 1 else 0


def _count(m: Any) -> int:
    return m.out_features if isinstance(m, nn.Linear) else m.out_channels


# ── taking units out ──────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def _shrink(root: nn.Module, units: _Units, dropped: dict[str, str]) -> bool:
    """Take out what can go of one layer's units; whether there was something."""
    layer: Any = root.get_submodule(units.layer)
    count = _count(layer)
    if units.fixed or count == 0:
        return False
    zero = _zero_rows(layer)
    state = {units.at: (zero, zero.to(layer.weight.dtype) * (0 if layer.bias is None else layer.bias))}
    for node, source, carry in units.path:
        state[node] = carry(*state[source])
    go, folds = torch.ones_like(zero), []
    for node, name in units.takers:
        taker: Any = root.get_submodule(name)
        weight = taker.weight.reshape(_count(taker), count, -1)
        known, value = _spread(*state[node], count * (weight.shape[2] if isinstance(taker, nn.Linear) else 1))
        known = known & value.isfinite()
        if _pads(taker):
            known = known & (value == 0)
        known, value = known.reshape(count, -1), torch.where(known, value, 0.0).reshape(count, -1)
        go &= (weight == 0).all(2).all(0) | known.all(1)
        folds.append((name, taker, weight, value))
    if go.all():
        go[0] = False  # torch has no convolution without channels
    if not go.any():
        return False
    for name, taker, weight, value in folds:
        bias = (weight[:, go].double() * value[go].double()).sum((1, 2))
        if bias.any():
            had = taker.bias
            total = (bias if had is None else had.double() + bias).to(taker.weight.dtype)
            taker.bias = nn.Parameter(total, requires_grad=(taker.weight if had is None else had).requires_grad)
        stays = ~go.repeat_interleave(weight.shape[2] if isinstance(taker, nn.Linear) else 1)
        _cut(taker, "weight", stays, 1, name, dropped)
        taker.__dict__["in_features" if isinstance(taker, nn.Linear) else "in_channels"] = int(stays.sum())
    for name in units.sized:
        m: Any = root.get_submodule(name)
        stays = ~go.repeat_interleave(_width(m) // count)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            _cut(m, leaf, stays, 0, name, dropped)
        m.__dict__["num_features" if isinstance(m, _NORMS) else "num_parameters"] = int(stays.sum())
    for leaf in ("weight", "bias"):
        _cut(layer, leaf, ~go, 0, units.layer, dropped)
    layer.__dict__["out_features" if isinstance(layer, nn.Linear) else "out_channels"] = int((~go).sum())
    return True


def _zero_rows(layer: Any) -> Tensor:
    return (layer.weight.detach().flatten(1) == 0).all(1)


def _pads(taker: Any) -> bool:
    """Whether zeros stand around what a convolution sees, so that a constant is none at the border."""
    if isinstance(taker, nn.Linear) or taker.padding_mode != "zeros" or taker.padding == "valid":
        return False
    return any(k != 1 for k in taker.kernel_size) if taker.padding == "same" else any(taker.padding)


def _cut(m: nn.Module, leaf: str, stays: Tensor, dim: int, name: str, dropped: dict[str, str]) -> None:
    """Keep a part of a parameter or buffer along a dim, and of its operator if that holds tensors."""
    old = getattr(m, leaf, None)
    if old is None:
        return
    index = stays.nonzero()[:, 0]
    new = old.detach().index_select(dim, index)
    setattr(m, leaf, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)
    slot = _Slot(m, leaf, new)
    if slot.prox is None or not any(True for _ in slot.prox._tensors()):
        return
    try:
        slot.keep(slot.prox.take(index.cpu(), dim - old.ndim))
    except ValueError:
        dropped[f"{name}.{leaf}"] = repr(slot.prox)
        slot.keep(None)


def _why_kept(root: nn.Module, units: _Units) -> str:
    """Why units of a layer whose weights are zero have stayed; nothing if there are none."""
    zero = _zero_rows(root.get_submodule(units.layer))
    if not zero.any():
        return ""
    if units.fixed:
        return units.fixed
    return "one unit always stays" if len(zero) == 1 else "constants other than 0 that meet padding cannot be added to a bias"
