"""Operators that belong to parameters, groups of them by name, and networks without their zero units: outputs stay the same."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import EXAMPLES
from torch import nn

from proxfactor import L1, PGM, GroupLasso, L2Squared, NonNegative, Simplex
from proxfactor.modules import compact, constrain, param_groups

D = torch.float64


def net(seed=0, dtype=D):
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {"encoder": nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "decoder": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4))}
    ).to(dtype)


def tied():
    module = net()
    module["decoder"][0].weight = module["decoder"][1].weight = nn.Parameter(torch.randn(3, 3, dtype=D))
    return module


def operators(module):
    return {name: op for g in param_groups(module) for name, op in [(g["params"][0][0], g["prox"])]}


def found(module, name, **more):
    """The operator of one parameter's group."""
    return next(g for g in param_groups(module, **more) if name in dict(g["params"]))["prox"]


# ── constrain ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_constrained_parameter_is_in_the_set_at_once_and_nothing_else_moves():
    module = net()
    was = {name: p.detach().clone() for name, p in module.named_parameters()}
    assert constrain(module, "decoder.0.weight", Simplex(dim=0)) is module
    for name, p in module.named_parameters():
        wanted = Simplex(dim=0)(was[name]) if name == "decoder.0.weight" else was[name]
        assert torch.equal(p, wanted), name
    assert isinstance(module["decoder"][0].weight, nn.Parameter)
    assert module["decoder"][0].weight.is_leaf


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.op.exact], ids=repr)
def test_what_is_in_the_domain_stays_where_it_is_and_what_is_not_enters_it(example):
    for p in (torch.randn(example.shape, dtype=D, generator=torch.Generator().manual_seed(5)), torch.zeros(example.shape, dtype=D)):
        module = nn.ParameterDict({"p": p.clone()})
        constrain(module, "p", example.op)
        assert module["p"].isfinite().all()
        if math.isfinite(example.g(p)):
            assert torch.allclose(module["p"], p, rtol=1e-12, atol=max(1e-12, example.tol)), "it was inside"
        assert torch.allclose(example.op(module["p"].detach(), 0.0), module["p"], rtol=1e-6, atol=1e-6)


def test_an_operator_may_be_a_text_or_a_function():
    module = constrain(constrain(net(), "encoder.0.weight", "box(-0.1, 0.2)"), "encoder.0.bias", lambda x: x.clamp(min=1))
    assert module["encoder"][0].weight.min() >= -0.1
    assert module["encoder"][0].weight.max() <= 0.2
    assert module["encoder"][0].bias.min() >= 1


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_and_pickles_keep_the_operator(how):
    again = how(constrain(net(), "decoder.0.weight", Simplex(dim=0)))
    assert repr(found(again, "decoder.0.weight")) == "Simplex(dim=0)"
    other = how(again)
    constrain(other, "decoder.0.weight", None)
    assert repr(found(again, "decoder.0.weight")) == "Simplex(dim=0)"


def test_conversion_submodules_and_parents_keep_it():
    module = constrain(net(), "decoder.0.weight", "nonneg").to(torch.float32)
    assert repr(found(module, "decoder.0.weight")) == "NonNegative()"
    assert repr(found(module["decoder"], "0.weight")) == "NonNegative()"
    assert repr(found(nn.Sequential(module["decoder"]), "0.0.weight")) == "NonNegative()"


def test_state_dict_is_that_of_a_module_without_operators():
    plain, module = net(), constrain(net(), "decoder.0.weight", "nonneg")
    assert module.state_dict().keys() == plain.state_dict().keys()
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = constrain(net(seed=1), "decoder.0.weight", "nonneg")
    other.load_state_dict(torch.load(buffer))
    assert torch.equal(other["decoder"][0].weight, module["decoder"][0].weight)
    assert repr(found(other, "decoder.0.weight")) == "NonNegative()"


def test_another_operator_replaces_it_and_none_takes_it_away():
    module = constrain(constrain(net(), "encoder.0.weight", "nonneg"), "encoder.0.weight", Simplex(dim=1))
    assert repr(found(module, "encoder.0.weight")) == "Simplex(dim=1)"
    was = module["encoder"][0].weight.detach().clone()
    constrain(constrain(module, "encoder.0.weight", None), "encoder.0.bias", None)
    assert repr(found(module, "encoder.0.weight")) == "Unconstrained()"
    assert torch.equal(module["encoder"][0].weight, was)


def test_a_tied_parameter_has_one_operator_under_all_its_names():
    module = constrain(tied(), "decoder.1.weight", Simplex(dim=0))
    assert repr(found(module, "decoder.0.weight")) == "Simplex(dim=0)"
    constrain(module, "decoder.0.weight", Simplex(0))
    with pytest.raises(
        ValueError, match=r"decoder.0.weight is tied to decoder.1.weight, which has Simplex.*'decoder.1.weight', None"
    ):
        constrain(module, "decoder.0.weight", "nonneg")
    constrain(module, "decoder.0.weight", None)
    assert repr(found(module, "decoder.0.weight")) == "Unconstrained()"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("decoder.0.wieght", "did you mean decoder.0.weight"),
        ("weight", "did you mean .*weight"),
        ("decoder.0", "did you mean decoder.0"),
        ("", "it has encoder.0.weight, encoder.0.bias, decoder"),
    ],
)
def test_an_unknown_name_names_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"no parameter of ModuleDict is called '{name}'; {hint}"):
        constrain(net(), name, "nonneg")


def test_a_buffer_is_no_parameter():
    with pytest.raises(ValueError, match="no parameter of BatchNorm1d is called 'running_mean'"):
        constrain(nn.BatchNorm1d(3), "running_mean", "nonneg")


def test_what_parametrize_computes_is_refused_and_the_parameter_behind_it_is_not():
    module = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"0.weight .* computed by .*parametrize.* '0.parametrizations.weight.original'"):
        constrain(module, "0.weight", "nonneg")
    constrain(module, "0.parametrizations.weight.original", "nonneg")
    assert repr(found(module, "0.parametrizations.weight.original")) == "NonNegative()"


@pytest.mark.parametrize(
    ("name", "prox", "why"),
    [
        ("encoder.0.bias", Simplex(dim=1), r"Simplex\(dim=1\) does not fit encoder.0.bias of shape \(3,\): .*there is no dim 1"),
        ("encoder.0.weight", L1(torch.ones(5)), r"does not fit encoder.0.weight of shape \(3, 4\)"),
        ("encoder.0.weight", lambda x: x[:1], r"does not fit encoder.0.weight"),
        ("encoder.0.weight", lambda x: x / 0, r"makes numbers that are not finite in encoder.0.weight"),
        ("encoder.0.weight", GroupLasso(1, groups=(0, 1)), r"does not fit encoder.0.weight"),
    ],
    ids=["dim", "tensor", "shape", "division", "groups"],
)
def test_an_operator_that_does_not_fit_is_refused_and_nothing_has_happened(name, prox, why):
    module = net()
    with pytest.raises(ValueError, match=why):
        constrain(module, name, prox)
    assert repr(found(module, name)) == "Unconstrained()"
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), net().parameters(), strict=True))


def test_parameters_that_cannot_be_looked_at_are_refused():
    with pytest.raises(ValueError, match="weight has no values yet"):
        constrain(nn.LazyLinear(3), "weight", "nonneg")
    with pytest.raises(ValueError, match="weight has no values yet"):
        constrain(nn.Linear(2, 3, device="meta"), "weight", "nonneg")
    with pytest.raises(TypeError, match=r"NonNegative\(\) does not fit p of shape \(2,\): .*real floating-point"):
        constrain(nn.ParameterDict({"p": torch.ones(2, dtype=torch.complex128)}), "p", "nonneg")
    with pytest.raises(TypeError, match="given list, an nn"):
        constrain([], "p", "nonneg")
    broken = nn.ParameterDict({"p": torch.tensor([1.0, math.nan])})
    with pytest.raises(ValueError, match="was given numbers that are not finite in p"):
        constrain(broken, "p", "nonneg")


# ── param_groups ──────────────────────────────────────────────────────────────────────────────────────────────────────


def summary(groups):
    return [([name for name, _ in g["params"]], repr(g["prox"])) for g in groups]


def test_groups_follow_the_patterns_and_the_rest_is_free():
    module = net()
    groups = param_groups(module, {"encoder.0.weight": Simplex(dim=0), "decoder.*": NonNegative() + L1(1e-3)}, lr=0.1)
    assert summary(groups) == [
        (["encoder.0.weight"], "Simplex(dim=0)"),
        (["decoder.0.weight", "decoder.0.bias", "decoder.1.weight", "decoder.1.bias"], "NonNegative() + L1(0.001)"),
        (["encoder.0.bias"], "Unconstrained()"),
    ]
    assert all(g["lr"] == 0.1 for g in groups)
    assert all(p is dict(module.named_parameters())[name] for g in groups for name, p in g["params"])


def test_no_patterns_make_one_group():
    module = net()
    assert summary(param_groups(module)) == [([name for name, _ in module.named_parameters()], "Unconstrained()")]


def test_the_first_match_counts():
    groups = param_groups(net(), {"*.bias": None, "*": L2Squared(0.1)})
    assert [repr(g["prox"]) for g in groups] == ["Unconstrained()", "L2Squared(0.1)"]
    assert all(name.endswith("bias") == (g is groups[0]) for g in groups for name, _ in g["params"])


def test_a_pattern_that_comes_too_late_is_an_error():
    with pytest.raises(ValueError, match=r"'encoder.0.weight' matches nothing that '\*' has left.*before it"):
        param_groups(net(), {"*": L1(0.1), "encoder.0.weight": Simplex(dim=0)})


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(ValueError, match=r"called 'decodr\.\*'; did you mean .*decoder"):
        param_groups(net(), {"decodr.*": "nonneg"})


def test_a_value_may_bring_options_of_its_own():
    groups = param_groups(net(), {"encoder.*": {"prox": "nonneg", "lr": 0.5}, "*.bias": {"momentum": 0.9}}, lr=0.1)
    assert [(repr(g["prox"]), g["lr"], g.get("momentum")) for g in groups] == [
        ("NonNegative()", 0.5, None),
        ("Unconstrained()", 0.1, 0.9),
        ("Unconstrained()", 0.1, None),
    ]


def test_what_constrain_has_registered_is_taken_over():
    module = constrain(constrain(net(), "encoder.0.weight", Simplex(dim=0)), "decoder.1.weight", "nonneg")
    assert summary(param_groups(module, {"decoder.*": {"lr": 0.5}})) == [
        (["decoder.0.weight", "decoder.0.bias", "decoder.1.bias"], "Unconstrained()"),
        (["decoder.1.weight"], "NonNegative()"),
        (["encoder.0.weight"], "Simplex(dim=0)"),
        (["encoder.0.bias"], "Unconstrained()"),
    ]
    assert len(param_groups(module, {"encoder.0.weight": Simplex(0)})) == 3


def test_a_pattern_against_what_constrain_has_registered_is_an_error_with_a_way_out():
    module = constrain(net(), "decoder.1.weight", "nonneg")
    with pytest.raises(ValueError, match=r"decoder.1.weight has NonNegative\(\), 'decoder.\*' gives decoder.1.weight L1\(1\)"):
        param_groups(module, {"decoder.*": L1()})
    groups = param_groups(module, {"decoder.1.weight": {}, "decoder.*": L1()})
    assert summary(groups)[0] == (["decoder.1.weight"], "NonNegative()")


def test_operators_with_tensors_are_compared_by_their_numbers():
    module = constrain(net(), "encoder.0.weight", L1(torch.ones(4)))
    assert len(param_groups(module, {"encoder.0.weight": L1(torch.ones(4))})) == 2
    with pytest.raises(ValueError, match="two operators for one parameter"):
        param_groups(module, {"encoder.0.weight": L1(torch.zeros(4))})


def test_frozen_parameters_are_left_out():
    module = net()
    module["encoder"].requires_grad_(False)
    assert summary(param_groups(module, {"encoder.*": "nonneg", "decoder.*": "l1(1)"})) == [
        (["decoder.0.weight", "decoder.0.bias", "decoder.1.weight", "decoder.1.bias"], "L1(1)")
    ]


def test_a_tied_parameter_comes_once_whichever_name_is_matched():
    for name in ("decoder.0.weight", "decoder.1.weight", "decoder.?.weight"):
        groups = param_groups(tied(), {name: Simplex(dim=0)})
        assert summary(groups)[0] == (["decoder.0.weight"], "Simplex(dim=0)")
        assert sum(len(g["params"]) for g in groups) == 5


def test_two_operators_or_options_for_a_tied_parameter_are_an_error():
    with pytest.raises(
        ValueError, match=r"two operators .*'decoder.0.\*' gives decoder.0.weight .*'decoder.1.\*' gives decoder.1.weight"
    ):
        param_groups(tied(), {"decoder.0.*": "nonneg", "decoder.1.*": "l1(1)"})
    with pytest.raises(ValueError, match=r"decoder.0.weight and decoder.1.weight are one parameter.*different options"):
        param_groups(tied(), {"decoder.0.*": {"lr": 1.0}, "decoder.1.*": {"lr": 2.0}})


def test_operators_tied_later_are_told_apart():
    module = constrain(constrain(net(), "decoder.0.weight", "nonneg"), "decoder.1.weight", "l1(1)")
    module["decoder"][1].weight = module["decoder"][0].weight
    with pytest.raises(ValueError, match=r"decoder.0.weight has NonNegative\(\), decoder.1.weight has L1\(1\)"):
        param_groups(module)


def test_an_operator_that_does_not_fit_a_matched_parameter_is_refused():
    with pytest.raises(ValueError, match=r"GroupLasso\(dim=1\) does not fit decoder.0.bias of shape \(3,\)"):
        param_groups(net(), {"decoder.*": GroupLasso(1)})


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"'\*': prox"):
        param_groups(net(), prox="nonneg")
    with pytest.raises(ValueError, match="'params'"):
        param_groups(net(), {"*": {"params": []}})
    with pytest.raises(TypeError, match=r"write NonNegative\(\)"):
        param_groups(net(), {"*": NonNegative})


def test_an_optimizer_takes_the_groups_and_keeps_each_operator():
    module = constrain(net(), "encoder.0.weight", Simplex(dim=0))
    optimizer = PGM(param_groups(module, {"decoder.*": "nonneg"}), lr=0.05)
    x = torch.randn(20, 4, dtype=D)
    for _ in range(5):
        optimizer.zero_grad()
        (module["decoder"](module["encoder"](x)) - x).square().sum().backward()
        optimizer.step()
    assert torch.allclose(module["encoder"][0].weight.sum(0), torch.ones(4, dtype=D))
    assert all((p >= 0).all() for p in module["decoder"].parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"][0] == "decoder.0.weight"


def test_an_optimizer_of_groups_steps_as_one_made_by_hand():
    ours, theirs = net(), net()
    first = PGM(param_groups(ours, {"*.weight": L1(0.1)}, lr=0.1), momentum=0.5)
    weights = [p for name, p in theirs.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in theirs.named_parameters() if name.endswith("bias")]
    second = PGM([{"params": weights, "prox": L1(0.1)}, {"params": biases, "prox": None}], lr=0.1, momentum=0.5)
    x = torch.randn(9, 4, dtype=D)
    for module, optimizer in ((ours, first), (theirs, second)):
        for _ in range(3):
            optimizer.zero_grad()
            module["decoder"](module["encoder"](x)).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


# ── compact: outputs stay, zero units go ──────────────────────────────────────────────────────────────────────────────


def alive(module):
    """Random statistics, so that nothing is 0 or 1 by habit; dropout off."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return module.to(D).eval()


def empty(layer, units):
    with torch.no_grad():
        layer.weight[list(units)] = 0
    return layer


def unused(layer, units, times=1):
    with torch.no_grad():
        for u in units:
            layer.weight[:, u * times : (u + 1) * times] = 0
    return layer


def same(module, *args, example=True):
    """The compacted module, after a look at its outputs, and at the original, which must not have been touched."""
    state = {k: v.clone() for k, v in module.state_dict().items()}
    small = compact(module, args) if example else compact(module)
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in state.items())
    assert module.state_dict().keys() == state.keys()
    with torch.no_grad():
        assert torch.allclose(small(*args), module(*args), rtol=1e-10, atol=1e-12)
    return small


def linears(*sizes, between=nn.ReLU):
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), between()]
    return alive(nn.Sequential(*layers[:-1]))


ACTIVATIONS = [
    *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(6), nn.RReLU(), nn.ELU(), nn.SELU()),
    *(nn.CELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.LogSigmoid(), nn.Hardsigmoid(), nn.Tanh(), nn.Tanhshrink()),
    *(nn.Hardtanh(), nn.Hardswish(), nn.Hardshrink(0.01), nn.Softplus(), nn.Softshrink(0.01), nn.Softsign(), nn.Threshold(0.1, 20)),
    *(nn.Identity(), nn.Dropout(), nn.AlphaDropout(), nn.Dropout(inplace=True)),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_a_zero_unit_goes_through_every_activation(activation, bias):
    torch.manual_seed(0)
    first = empty(nn.Linear(4, 6, bias=bias), [1, 4])
    module = alive(nn.Sequential(first, copy.deepcopy(activation), nn.Linear(6, 3, bias=bias)))
    small = same(module, torch.randn(9, 4, dtype=D))
    assert small[0].weight.shape == (4, 4)
    assert small[2].weight.shape == (3, 4)
    assert small.compacted.units == {"0": (6, 4)}


def test_a_constant_makes_a_bias_where_there_is_none():
    module = linears(3, 4, 2, between=nn.Sigmoid)
    module[2].bias = None
    empty(module[0], [0])
    small = same(module, torch.randn(5, 3, dtype=D))
    expected = module[2].weight[:, 0] * torch.sigmoid(module[0].bias[0])
    assert torch.allclose(small[2].bias, expected)
    assert module[2].bias is None


def test_no_bias_is_made_for_a_constant_of_zero():
    module = linears(3, 4, 2)
    module[2].bias = None
    empty(module[0], [0])
    module[0].bias.data[0] = -1
    assert same(module, torch.randn(5, 3, dtype=D))[2].bias is None


def test_a_unit_that_no_layer_looks_at_goes():
    module = linears(3, 5, 2)
    unused(module[2], [2, 3])
    assert same(module, torch.randn(5, 3, dtype=D)).compacted.units == {"0": (5, 3)}


def test_removal_spreads_both_ways_until_nothing_is_left_to_remove():
    module = linears(3, 5, 4, 2)
    with torch.no_grad():
        module[0].weight[0] = 0  # goes; then unit 1 of the next layer, which looks at it alone, is a constant
        module[2].weight[1, 1:] = 0
        module[4].weight[:, 3] = 0  # nobody looks at unit 3 of the second layer, which alone looks at unit 4 of the first
        module[2].weight[:3, 4] = 0
    small = same(module, torch.randn(7, 3, dtype=D))
    assert small.compacted.units == {"0": (5, 3), "2": (4, 2)}
    assert compact(small).compacted.units == {}


def test_one_unit_stays_when_all_are_zero():
    module = linears(3, 4, 2)
    empty(module[0], range(4))
    small = same(module, torch.randn(5, 3, dtype=D))
    assert small[0].out_features == 1
    assert small.compacted.kept == {"0": "one unit always stays"}


def test_the_output_keeps_its_units():
    module = linears(3, 4, 5)
    empty(module[2], [1])
    small = same(module, torch.randn(2, 3, dtype=D))
    assert small[2].out_features == 5
    assert small.compacted.kept == {"2": "its units are the output"}


def test_nothing_to_remove_removes_nothing():
    small = same(linears(3, 4, 2), torch.randn(2, 3, dtype=D))
    assert small.compacted[:3] == ({}, {}, {})
    assert str(small.compacted) == "26 → 26 parameters"


def test_the_report_can_be_read():
    module = linears(3, 4, 2)
    empty(module[0], [1, 2])
    assert str(compact(module).compacted) == "0: 4 → 2 units\n26 → 14 parameters"


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_cut_too_and_its_constants_are_followed(affine):
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(6, affine=affine)
    module = nn.Sequential(empty(nn.Linear(4, 6), [0, 5]), norm, nn.Sigmoid(), nn.Linear(6, 2))
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    module.to(D).eval()
    for example in (True, False):
        small = same(module, torch.randn(8, 4, dtype=D), example=example)
        assert small[1].num_features == 4
        assert small[1].running_var.shape == (4,)
        small.train()(torch.randn(8, 4, dtype=D))  # the sizes fit in training as well


def test_a_scale_of_zero_in_a_batch_norm_removes_the_filter():
    module = alive(nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3)))
    module[1].weight.data[[0, 3]] = 0
    assert same(module, torch.randn(2, 2, 8, 8, dtype=D)).compacted.units == {"0": (5, 3)}


def test_a_batch_norm_without_running_statistics_holds_no_constant():
    module = nn.Sequential(empty(nn.Linear(4, 6), [0]), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 2)).to(D)
    module[1].weight.data[2] = 0
    unused(module[2], [4])
    assert same(module, torch.randn(8, 4, dtype=D)).compacted.units == {"0": (6, 4)}


@pytest.mark.parametrize("tail", ["flatten", "view", "pooled", "torch", "method"])
def test_convolution_pooling_flatten_and_linear(tail):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = empty(nn.Conv2d(2, 5, 3, padding=1), [1, 2]), nn.BatchNorm2d(5)
            self.flatten, self.fc = nn.Flatten(), nn.Linear(5 if tail == "pooled" else 80, 3)

        def forward(self, x):
            x = F.max_pool2d(F.silu(self.norm(self.conv(x)), inplace=True), 2)
            match tail:
                case "flatten":
                    x = self.flatten(x)
                case "view":
                    x = x.view(x.size(0), -1)
                case "torch":
                    x = torch.flatten(x, 1)
                case "method":
                    x = x.reshape(x.shape[0], -1)
                case "pooled":
                    x = F.adaptive_avg_pool2d(x, 1).flatten(start_dim=1)
            return self.fc(F.dropout(x, training=self.training))

    for example in (True, False):
        small = same(alive(Net()), torch.randn(3, 2, 8, 8, dtype=D), example=example)
        assert small.compacted.units == {"conv": (5, 3)}
        assert small.fc.in_features == (3 if tail == "pooled" else 48)


def test_a_batch_norm_behind_flatten_holds_several_numbers_for_each_filter():
    module = alive(nn.Sequential(empty(nn.Conv1d(2, 4, 3), [2]), nn.Flatten(), nn.BatchNorm1d(24), nn.Sigmoid(), nn.Linear(24, 3)))
    small = same(module, torch.randn(5, 2, 8, dtype=D))
    assert (small[0].out_channels, small[2].num_features, small[4].in_features) == (3, 18, 18)


PADDED = [
    ({"padding": 1}, nn.Sigmoid(), False),
    ({"padding": 1}, nn.ReLU(), True),  # negative biases: the constant is 0
    ({"padding": "same"}, nn.Sigmoid(), False),
    ({"padding": "valid"}, nn.Sigmoid(), True),
    ({"padding": 1, "padding_mode": "reflect"}, nn.Sigmoid(), True),
    ({"padding": 1, "padding_mode": "replicate"}, nn.Sigmoid(), True),
    ({"padding": 1, "padding_mode": "circular"}, nn.Sigmoid(), True),
    ({"padding": (0, 1)}, nn.Sigmoid(), False),
]


@pytest.mark.parametrize(("options", "activation", "goes"), PADDED, ids=repr)
def test_a_constant_that_meets_zero_padding_stays(options, activation, goes):
    torch.manual_seed(0)
    module = alive(nn.Sequential(empty(nn.Conv2d(2, 5, 3, padding=1), [1, 2]), activation, nn.Conv2d(5, 3, 3, **options)))
    module[0].bias.data[[1, 2]] = -1
    small = same(module, torch.randn(2, 2, 6, 6, dtype=D))
    assert small[0].out_channels == (3 if goes else 5)
    assert bool(small.compacted.kept) != goes


POOLS = [
    *((nn.MaxPool2d(2), True), (nn.MaxPool2d(3, padding=1), True), (nn.MaxPool2d(3, dilation=2), True), (nn.AvgPool2d(2), True)),
    *((nn.AvgPool2d(3, stride=2, ceil_mode=True), True), (nn.AvgPool2d(3, padding=1), False)),
    *((nn.AvgPool2d(3, padding=1, count_include_pad=False), True), (nn.AvgPool2d(2, divisor_override=3), False)),
    *((nn.AdaptiveAvgPool2d(3), True), (nn.AdaptiveMaxPool2d(3), True)),
]


@pytest.mark.parametrize(("pool", "goes"), POOLS, ids=repr)
def test_a_constant_that_pooling_pads_stays(pool, goes):
    torch.manual_seed(0)
    module = alive(nn.Sequential(empty(nn.Conv2d(2, 5, 3), [1, 2]), pool, nn.Conv2d(5, 3, 2)))
    x = torch.randn(2, 2, 13, 13, dtype=D)
    assert same(module, x)[0].out_channels == (3 if goes else 5)
    functions = {nn.MaxPool2d: F.max_pool2d, nn.AvgPool2d: F.avg_pool2d}
    if type(pool) in functions:

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = module[0], module[2]

            def forward(self, x):
                options = {k: v for k, v in vars(pool).items() if k in pool.__constants__}
                return self.b(functions[type(pool)](self.a(x), options.pop("kernel_size"), options.pop("stride"), **options))

        assert same(Net(), x).a.out_channels == (3 if goes else 5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_every_dimension(dims):
    conv, norm, pool = ([getattr(nn, f"{name}{d}d") for d in (1, 2, 3)][dims - 1] for name in ("Conv", "BatchNorm", "MaxPool"))
    module = alive(
        nn.Sequential(empty(conv(2, 4, 2), [0]), norm(4), nn.Tanh(), pool(2), conv(4, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    )
    unused(module[6], [1])
    assert same(module, torch.randn(3, 2, *(5,) * dims, dtype=D)).compacted.units == {"0": (4, 3), "4": (3, 2)}


# ── compact: what is not understood keeps its units ───────────────────────────────────────────────────────────────────


class Around(nn.Module):
    """A first layer with zero units and a second one that looks at them, with any forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = empty(nn.Linear(4, 6), [1, 4]), nn.Linear(6, 6)
        for name, part in parts.items():
            setattr(self, name, part)
        self.how = forward
        self.to(D)

    def forward(self, x):
        return self.how(self, x)


MIXED = {
    "LayerNorm": (lambda m, x: m.b(m.n(m.a(x))), {"n": nn.LayerNorm(6)}),
    "GroupNorm": (lambda m, x: m.b(m.n(m.a(x))), {"n": nn.GroupNorm(2, 6)}),
    "RMSNorm": (lambda m, x: m.b(m.n(m.a(x))), {"n": nn.RMSNorm(6)}),
    "Softmax": (lambda m, x: m.b(m.n(m.a(x))), {"n": nn.Softmax(-1)}),
    "softmax": (lambda m, x: m.b(m.a(x).softmax(-1)), {}),
    "residual": (lambda m, x: m.b(h := m.a(x)) + h, {}),
    "gate": (lambda m, x: m.b(torch.sigmoid(h := m.a(x)) * h), {}),
    "in place residual": (lambda m, x: m.b(m.a(x).add_(1)), {}),
    "concatenation": (lambda m, x: m.c(torch.cat([m.a(x), x], -1)), {"c": nn.Linear(10, 2)}),
    "reshape": (lambda m, x: m.b(m.a(x).reshape(-1, 2, 3).flatten(1)), {}),
    "transposed": (lambda m, x: m.b(m.a(x).T.T), {}),
    "slice": (lambda m, x: m.c(m.a(x)[:, 1:]), {"c": nn.Linear(5, 2)}),
    "mean over units": (lambda m, x: m.b(m.a(x) - m.a(x).mean(1, keepdim=True)), {}),
    "called twice": (lambda m, x: m.b(m.b(m.a(x))), {}),
    "read": (lambda m, x: F.linear(torch.relu(m.a(x)), m.a.weight.mT, None) + m.b(m.a(x))[:, :4], {}),
    "read by the next": (lambda m, x: m.b(m.a(x)) + m.b.weight.sum(), {}),
    "output too": (lambda m, x: torch.cat([m.b(h := m.a(x)), h]), {}),
    "size in the formula": (lambda m, x: m.b(m.a(x) / m.a.out_features**0.5), {}),
    "size of the next": (lambda m, x: m.b(m.a(x)) * m.b.in_features, {}),
    "size of the tensor": (lambda m, x: m.b(h := m.a(x)) * h.size(1), {}),
    "in place while others look": (lambda m, x: m.b(h := m.a(x)) + m.c(h.sigmoid_()), {"c": nn.Linear(6, 6)}),
    "in place before others look": (lambda m, x: (h := m.a(x), h.sigmoid_(), m.b(h))[-1], {}),
    "view changed in place": (lambda m, x: (h := m.a(x), h.flatten(1).sigmoid_(), m.b(h))[-1], {}),
    "always dropout": (lambda m, x: m.b(F.dropout(m.a(x))), {}),
    "branch in training": (lambda m, x: m.b(m.a(x)) if not m.training else m.a(x), {}),
    "data decide": (lambda m, x: m.b(m.a(x)) if x.sum() > 0 else m.a(x).sum() * x, {}),
}


@pytest.mark.parametrize(("how", "parts"), MIXED.values(), ids=MIXED)
def test_what_mixes_units_or_is_not_understood_keeps_them(how, parts):
    module = Around(how, **parts).eval()
    small = compact(module)
    assert small.a.out_features == 6
    assert small.compacted.kept, "and says so"
    x = torch.randn(5, 4, dtype=D)
    torch.manual_seed(0)
    expected = module(x)
    torch.manual_seed(0)
    assert torch.equal(small(x), expected)


KNOWN = {
    "two heads": (lambda m, x: m.b(h := torch.relu(m.a(x))) + m.c(h), {"c": nn.Linear(6, 6)}),
    "heads before and after": (lambda m, x: m.b(h := m.a(x)) + m.c(h.exp()), {"c": nn.Linear(6, 6)}),
    "numbers": (lambda m, x: m.b(1 - (m.a(x) * 3 + 1).clamp(min=0.1) ** 2 / 7), {}),
    "a shared activation": (lambda m, x: m.r(m.b(m.r(m.a(x)))), {"r": nn.Sigmoid()}),
    "parameters elsewhere": (lambda m, x: m.b(torch.relu(m.a(x))) * m.s, {"s": nn.Parameter(torch.tensor(2.0))}),
    "sequences": (lambda m, x: m.b(m.a(x[:, None, :].expand(-1, 3, -1)).sigmoid()), {}),
    "a network inside": (lambda m, x: m.c(m.a(x)), {"c": nn.Sequential(nn.Sequential(nn.Sigmoid()), nn.Linear(6, 6))}),
}


@pytest.mark.parametrize(("how", "parts"), KNOWN.values(), ids=KNOWN)
def test_graphs_that_are_understood(how, parts):
    module = Around(how, **parts).eval()
    for example in (True, False):
        assert same(module, torch.randn(5, 4, dtype=D), example=example).compacted.units == {"a": (6, 4)}


def test_flattened_sequences_of_units_are_not_taken_for_filters():
    module = nn.Sequential(empty(nn.Linear(3, 4), [1]), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).to(D)
    for example in (True, False):
        assert same(module, torch.randn(5, 2, 3, dtype=D), example=example)[0].out_features == 4


def test_frames_that_become_one_row_are_not_taken_for_pixels():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = empty(nn.Conv2d(1, 4, 3), [1]), nn.Linear(2 * 4 * 4, 2)
            self.to(D)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x.flatten(0, 1))).view(x.size(0), -1))

    for example in (True, False):
        assert same(Frames(), torch.randn(3, 2, 1, 4, 4, dtype=D), example=example).conv.out_channels == 4


def test_a_batch_norm_over_time_is_told_apart_by_the_example():
    module = alive(nn.Sequential(empty(nn.Linear(3, 4), [1]), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    assert same(module, torch.randn(5, 4, 3, dtype=D))[0].out_features == 4  # 4 steps of time, 4 units
    assert same(module, torch.randn(5, 3, dtype=D))[0].out_features == 3


def test_a_linear_along_the_width_of_images_keeps_the_filters():
    module = nn.Sequential(empty(nn.Conv2d(1, 4, 3), [1]), nn.Linear(4, 2)).to(D)
    assert same(module, torch.randn(2, 1, 6, 6, dtype=D))[0].out_channels == 4


def test_flatten_and_pooling_along_other_dims_keep_the_units():
    flat = nn.Sequential(empty(nn.Conv2d(1, 4, 3), [1]), nn.Flatten(2), nn.Linear(16, 2)).to(D)
    pooled = nn.Sequential(empty(nn.Linear(3, 4), [1]), nn.MaxPool1d(2), nn.Linear(2, 2)).to(D)
    planes = nn.Sequential(empty(nn.Conv1d(1, 4, 3), [1]), nn.MaxPool2d(2), nn.Conv1d(2, 2, 1)).to(D)  # takes filters for rows
    for example in (True, False):
        assert same(planes, torch.randn(2, 1, 6, dtype=D), example=example)[0].out_channels == 4
        assert same(flat, torch.randn(2, 1, 6, 6, dtype=D), example=example)[0].out_channels == 4
        assert same(pooled, torch.randn(2, 5, 3, dtype=D), example=example)[0].out_features == 4


def test_a_constant_that_is_not_finite_is_not_added_to_a_bias():
    module = Around(lambda m, x: m.b(m.a(x).exp()))
    module.a.bias.data[1] = 1e4
    small = compact(module)
    assert small.compacted.units == {"a": (6, 5)}
    assert small.b.bias.isfinite().all()


def test_grouped_convolutions_keep_their_filters_and_those_before_them():
    module = nn.Sequential(empty(nn.Conv1d(2, 4, 1), [1]), empty(nn.Conv1d(4, 4, 1, groups=2), [0]), nn.Conv1d(4, 2, 1)).to(D)
    small = same(module, torch.randn(2, 2, 5, dtype=D))
    assert small.compacted.units == {}
    assert "has groups" in small.compacted.kept["0"]


def test_tied_layers_keep_their_units():
    module = linears(4, 4, 4, 4)
    module[2].weight = module[0].weight
    empty(module[0], [1])
    assert same(module, torch.randn(3, 4, dtype=D)).compacted.units == {}
    module = linears(4, 4, 4)
    shared = nn.Sequential(module[0], nn.ReLU(), module[0], module[2])
    empty(module[0], [1])
    assert same(shared, torch.randn(3, 4, dtype=D)).compacted.units == {}


def test_hooks_parametrizations_and_subclasses_keep_their_units():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x) + 1

    x = torch.randn(3, 4, dtype=D)
    for at in (0, 1, 2):
        module = linears(4, 5, 2)
        empty(module[0], [1])
        module[at].register_forward_hook(lambda m, args, out: out + 1)
        assert same(module, x).compacted.units == {}
    custom = nn.Sequential(empty(Twice(4, 5), [1]), nn.ReLU(), nn.Linear(5, 2)).to(D)
    assert same(custom, x)[0].out_features == 5
    normed = (
        nn.Sequential(empty(nn.Linear(4, 5), [1]), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 2))).to(D).eval()
    )
    assert same(normed, x)[0].out_features == 5
    replaced = linears(4, 5, 2)
    empty(replaced[0], [1])
    replaced[1].forward = lambda x: x.flip(-1)
    assert same(replaced, x).compacted.units == {}
    whole = linears(4, 5, 2)
    empty(whole[0], [1])
    whole.forward = lambda x: whole[0](x)
    small = compact(whole)
    assert small[0].out_features == 5
    assert "was replaced on this object" in small.compacted.kept["forward"]


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = empty(nn.Linear(4, 6), [1, 4]), nn.Linear(6, 2)
        self.to(D)

    def forward(self, x, inner=False, mask=None):
        h = torch.relu(self.a(x))
        if mask is not None:
            h = h * mask
        return h if inner else self.b(h)


def test_optional_arguments_are_at_their_defaults_only_where_the_call_is_shown():
    module, x, mask = Optional(), torch.randn(3, 4, dtype=D), torch.rand(6, dtype=D)
    assert same(module, x).compacted.units == {"a": (6, 4)}
    assert same(module, x, example=False).compacted.units == {}
    assert same(module, x, True).compacted.units == {}
    assert same(module, x, False, mask).compacted.units == {}


def test_what_cannot_be_traced_comes_back_unchanged_with_the_reason():
    module = Around(MIXED["data decide"][0])
    small = compact(module)
    assert "cannot be traced" in small.compacted.kept["forward"]
    assert small is not module
    assert all(torch.equal(p, q) for p, q in zip(small.parameters(), module.parameters(), strict=True))


def test_an_example_that_the_module_cannot_take_is_an_error():
    with pytest.raises(RuntimeError, match="shape"):
        compact(linears(3, 4, 2), torch.randn(2, 5, dtype=D))
    with pytest.raises(TypeError, match="too many"):
        compact(linears(3, 4, 2), (torch.randn(2, 3, dtype=D), 1, 2))
    with pytest.raises(TypeError, match="given function, an nn"):
        compact(lambda x: x)


def test_outputs_that_differ_are_never_handed_out():
    class Liar(nn.Module):  # the forward is another one when it is traced
        def __init__(self):
            super().__init__()
            self.a, self.b = empty(nn.Linear(4, 6), [1, 4]), nn.Linear(6, 2)

        def forward(self, x):
            h = self.a(x)
            return self.b(h.cumsum(0) if type(x) is torch.Tensor and self.a.out_features == 6 else h)

    with pytest.raises(RuntimeError, match="output differs by"):
        compact(Liar(), torch.randn(3, 4))


def test_outputs_of_every_shape_are_compared():
    module = Around(lambda m, x: {"y": [m.b(torch.relu(m.a(x))), None], "n": 3}).eval()
    x = torch.randn(3, 4, dtype=D)
    small = compact(module, x)
    assert small.compacted.units == {"a": (6, 4)}
    assert torch.allclose(small(x)["y"][0], module(x)["y"][0])


# ── compact: what comes along ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_flags_and_modes_are_kept(dtype):
    module = linears(3, 6, 4, 2, between=nn.Sigmoid).to(dtype)
    empty(module[0], [1, 2])
    empty(module[2], [0])
    module[0].weight.requires_grad_(False)
    module[4].bias.requires_grad_(False)
    module[2].train()
    small = compact(module, torch.randn(4, 3, dtype=dtype))
    assert [m.training for m in small.modules()] == [m.training for m in module.modules()]
    for (name, p), q in zip(small.named_parameters(), module.parameters(), strict=True):
        assert (p.dtype, p.requires_grad, p.device) == (q.dtype, q.requires_grad, q.device), name
        assert p.is_leaf
    assert small.compacted.units == {"0": (6, 4), "2": (4, 3)}


def test_the_compacted_module_trains_copies_and_pickles():
    module = linears(3, 6, 2)
    empty(module[0], [1, 2])
    small = pickle.loads(pickle.dumps(copy.deepcopy(compact(module))))
    assert small.compacted.units == {"0": (6, 4)}
    optimizer = PGM(param_groups(small, {"0.weight": GroupLasso(1, 0.01)}), lr=0.1)
    small(torch.randn(4, 3, dtype=D)).square().sum().backward()
    optimizer.step()
    again = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    again.load_state_dict(small.state_dict())


def test_operators_stay_where_they_fit_and_are_cut_where_they_hold_numbers():
    module = linears(3, 4, 3, between=nn.Sigmoid)
    weights = torch.arange(4, dtype=D)
    constrain(module, "0.weight", L1(weights[:, None]))
    constrain(module, "0.bias", L1(weights))
    constrain(module, "2.weight", NonNegative())
    empty(module[0], [1])
    small = compact(module, torch.randn(3, 3, dtype=D))
    kept = weights[[0, 2, 3]]
    assert torch.equal(found(small, "0.weight").lam, kept[:, None])
    assert torch.equal(found(small, "0.bias").lam, kept)
    assert repr(found(small, "2.weight")) == "NonNegative()"
    assert torch.equal(found(module, "0.bias").lam, weights)
    assert small.compacted.dropped == {}


def test_an_operator_that_does_not_fit_what_is_left_is_dropped_by_name():
    module = linears(3, 4, 2, between=nn.Sigmoid)
    constrain(module, "2.weight", Simplex(dim=1))  # a column with weight goes: the rows do not sum to one any more
    constrain(module, "2.bias", "nonpos")  # gets a positive constant
    constrain(module, "0.weight", GroupLasso(0, groups=(0, 0, 1, 1)))
    module[2].bias.data.zero_()
    module[2].weight.data.fill_(0.25)
    empty(module[0], [1])
    small = compact(module, torch.randn(3, 3, dtype=D))
    assert small.compacted.dropped.keys() == {"2.weight", "2.bias", "0.weight"}
    assert repr(found(small, "2.bias")) == "Unconstrained()"
    assert repr(found(module, "2.bias")) == "NonPositive()"
    assert "2.bias: NonPositive() does not fit any more" in str(small.compacted)


def test_units_that_a_group_lasso_has_emptied_go():
    torch.manual_seed(0)
    module = linears(6, 20, 1, between=nn.Tanh)
    x = torch.randn(50, 6, dtype=D)
    y = torch.tanh(x[:, :1])
    optimizer = PGM(param_groups(module, {"0.weight": GroupLasso(1, 0.05)}), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (module(x) - y).square().mean().backward()
        optimizer.step()
    zero = int((module[0].weight == 0).all(1).sum())
    assert 0 < zero < 20
    assert same(module, x).compacted.units == {"0": (20, 20 - zero)}


def test_filters_that_a_function_or_the_scales_of_a_norm_have_emptied_go():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 6, 3), nn.ReLU(), nn.Conv1d(6, 1, 1)).to(
        D
    )
    proxs = {"1.weight": L1(0.1), "3.weight": lambda w, step: GroupLasso(1, 0.1)(w.flatten(1), step).view_as(w)}
    optimizer, x = PGM(param_groups(module, proxs), lr=0.1), torch.randn(8, 1, 12, dtype=D)
    for _ in range(150):
        optimizer.zero_grad()
        (module(x) - x[..., 2:-2].relu()).square().mean().backward()
        optimizer.step()
    scales, rows = int((module[1].weight == 0).sum()), int((module[3].weight == 0).flatten(1).all(1).sum())
    small = same(module.eval(), x)
    assert scales > 0
    assert rows > 0
    assert small[0].out_channels <= max(6 - scales, 1)
    assert small[3].out_channels <= max(6 - rows, 1)


# ── compact: any chain ────────────────────────────────────────────────────────────────────────────────────────────────

ANY = [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.LeakyReLU, lambda: nn.Dropout(0.3), nn.ELU]
subsets = st.sets(st.integers(0, 4), max_size=4)
blocks = st.tuples(st.integers(5, 7), st.booleans(), st.booleans(), st.sampled_from(ANY), subsets, subsets)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(blocks, min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_any_chain_of_linears_gives_the_same_and_keeps_no_unit_that_is_zero_or_unseen(plan, bias, seed):
    torch.manual_seed(seed)
    layers, width = [], 3
    for n, with_bias, norm, activation, rows, columns in plan:
        linear = empty(nn.Linear(width, n, bias=with_bias), rows)
        layers += [
            unused(linear, [c for c in columns if layers and c < width]),
            *([nn.BatchNorm1d(n)] if norm else []),
            activation(),
        ]
        width = n
    module = alive(nn.Sequential(*layers, nn.Linear(width, 2, bias=bias)))
    small = same(module, torch.randn(6, 3, dtype=D))
    left = [m for m in small if isinstance(m, nn.Linear)]
    for layer, after in itertools.pairwise(left):
        assert layer.out_features == after.in_features
        assert layer.out_features == 1 or not (layer.weight == 0).all(1).any()
        assert layer.out_features == 1 or not (after.weight == 0).all(0).any()


pictures = st.tuples(
    st.integers(4, 6),
    st.sampled_from([0, 1, "same", "valid"]),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.booleans(),
    st.sampled_from(ANY),
    st.sampled_from([None, nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, padding=1), nn.MaxPool2d(3, 1, padding=1)]),
    st.sets(st.integers(0, 3), max_size=3),
    st.sampled_from([1.0, 0.0, -1.0]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(pictures, min_size=1, max_size=3), st.booleans(), st.integers(0, 99))
def test_any_chain_of_convolutions_gives_the_same(plan, pooled, seed):
    torch.manual_seed(seed)
    layers, width, x = [], 2, torch.randn(2, 2, 16, 16, dtype=D)
    for n, padding, mode, norm, activation, pool, rows, bias in plan:
        conv = empty(nn.Conv2d(width, n, 3, padding=padding, padding_mode=mode), rows)
        nn.init.constant_(conv.bias, bias)
        layers += [conv, *([nn.BatchNorm2d(n)] if norm else []), activation(), *([pool] if pool else [])]
        width = n
    layers += [nn.AdaptiveAvgPool2d(1)] if pooled else []
    body = alive(nn.Sequential(*layers, nn.Flatten()))
    module = alive(nn.Sequential(*body, nn.Linear(body(x).shape[1], 2)))
    small = same(module, x)
    last = [m for m in small if isinstance(m, nn.Conv2d)][-1]
    if not any(isinstance(m, nn.AvgPool2d) and m.padding for m in layers[-3:]):
        assert last.out_channels == 1 or not (last.weight == 0).flatten(1).all(1).any()
