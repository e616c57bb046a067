"""Proximal optimizers over real processes, under mixed precision and in other people's loops: the trajectory of one process."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from proxfactor.optim import (
    APGM,
    BSDMM,
    NPG,
    PGM,
    AdaProx,
    DavisYin,
    ProxAdam,
    ProxDoWG,
    Proximal,
    ProxLBFGS,
)
from proxfactor.prox import L1, Fixed, NonNegative, Simplex

STEPS = 10
RULES = {
    "pgm": lambda groups: PGM(groups, lr=0.02, momentum=0.8),
    "pgm, auto": PGM,
    "pgm, auto, closure": PGM,
    "adam": lambda groups: ProxAdam(groups, lr=0.02),
    "adam, foreach": lambda groups: ProxAdam(groups, lr=0.02, foreach=True),
    "amsgrad": lambda groups: ProxAdam(groups, lr=0.02, form="amsgrad"),
}
HELD = {
    "nonneg": lambda: NonNegative(),
    "l1": lambda: L1(0.01),
    "simplex": lambda: Simplex(dim=1),
    "weights per entry": lambda: L1(torch.linspace(0.0, 0.1, 28, dtype=torch.float64).view(7, 4)),
    "fixed entries": lambda: Fixed(torch.full((7, 1), 0.3), torch.arange(7)[:, None] == 2),
}
CASES = [
    *((rule, "simplex") for rule in RULES),
    *((rule, held) for rule in ("pgm, auto", "adam") for held in HELD if held != "simplex"),
]
SAVED = [("pgm", "simplex"), ("adam", "simplex"), ("pgm, auto", "simplex")]
WHOLE = [APGM, ProxLBFGS, NPG, DavisYin, AdaProx, ProxDoWG]


def network():
    """Seven hidden units over two processes are four and three; the last bias is one number, so that one process has none."""
    g = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 1)).double()
    for p in model.parameters():
        p.data = torch.rand(p.shape, generator=g, dtype=torch.float64) - 0.3
    return model


def batch():
    g = torch.Generator().manual_seed(4)
    X = torch.randn(10, 4, generator=g, dtype=torch.float64)
    return X, X.sin().sum(1, keepdim=True)


def groups(model, held):
    first, *rest = model.parameters()
    return [{"params": [first], "prox": HELD[held]()}, {"params": rest, "prox": "l1(0.003)"}]


def mean_square(model, X, y):
    return (model(X) - y).square().mean()


def trained(model, case, mine=slice(None), mean=lambda loss: loss, steps=STEPS):
    """The optimizer after some steps on its part of the batch, and the residuals of its groups."""
    rule, held = case
    optimizer, device = RULES[rule](groups(model, held)), next(model.parameters()).device
    X, y = (t.to(device) for t in batch())

    def closure():
        optimizer.zero_grad()
        loss = mean_square(model, X[mine], y[mine])
        loss.backward()
        return mean(loss.detach())

    for _ in range(steps):
        if "closure" in rule:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return optimizer, torch.tensor([r.value for r in optimizer.residual(closure)])


def work(rank, where, out):
    """What each of two processes does; both write what they found."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    mesh, found, mine = init_device_mesh("cpu", (2,)), {}, slice(5 * rank, 5 * rank + 5)

    def mean(loss):
        dist.all_reduce(loss)
        return loss / 2

    def spread(model):
        fully_shard(model, mesh=mesh)
        return model

    def refusal(kind, call):
        try:
            call()
        except (TypeError, ValueError, RuntimeError) as e:
            found["refused", kind] = f"{type(e).__name__}: {e}"

    def weight(*placed, shape=(7, 4)):
        return nn.Parameter(distribute_tensor(torch.full(shape, 0.25, dtype=torch.float64), mesh, placed))

    for case in CASES:
        model = nn.parallel.DistributedDataParallel(network())
        found["ddp", case, "residual"] = trained(model, case, mine, mean)[1]
        found["ddp", case] = [p.detach() for p in model.parameters()]
        model = spread(network())
        found["fsdp", case, "residual"] = trained(model, case, mine)[1]
        found["fsdp", case, "rows"] = [len(p.to_local()) for p in model.parameters()]
        found["fsdp", case] = [p.detach().full_tensor() for p in model.parameters()]
    for case in SAVED:
        model = spread(network())
        optimizer, _ = trained(model, case, mine)
        saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
        whole = {
            (name, key): value.full_tensor() if hasattr(value, "full_tensor") else value
            for name, state in saved["state"].items()
            for key, value in state.items()
        }
        found["saved", case] = {k: v for k, v in whole.items() if isinstance(v, torch.Tensor)}
        other = RULES[case[0]](groups(model, "simplex"))
        set_optimizer_state_dict(model, other, copy.deepcopy(saved))
        X, y = batch()
        before = [p.detach().clone() for p in model.parameters()]
        for each in (optimizer, other):
            with torch.no_grad():
                for p, start in zip(model.parameters(), before, strict=True):
                    p.copy_(start)
            each.zero_grad()
            mean_square(model, X[mine], y[mine]).backward()
            each.step()
            found["resumed", case, each is other] = [p.detach().full_tensor() for p in model.parameters()]

    refusal("simplex(dim=0)", lambda: PGM([weight(Shard(0))], "simplex(dim=0)"))
    refusal(
        "a later group",
        lambda: ProxAdam([weight(Shard(0))], "nonneg").add_param_group({"params": [weight(Shard(1))], "prox": "simplex(dim=1)"}),
    )
    for kind in WHOLE:
        refusal(kind.__name__, lambda kind=kind: kind([weight(Shard(0))], "nonneg"))
    refusal("BSDMM", lambda: BSDMM([weight(Shard(0))], ["nonneg"]))
    refusal("Proximal", lambda: Proximal(torch.optim.Adam([weight(Shard(0))]), "nonneg"))

    late = weight(Shard(0))
    optimizer = PGM([late], "nonneg", lr=0.1)
    optimizer.param_groups[0]["prox"] = Simplex(dim=0)
    late.grad = torch.ones_like(late)
    refusal("a prox put in later", optimizer.step)

    torn = weight(Shard(0))
    optimizer = PGM([torn], "nonneg", lr=0.1)
    torn.grad = torch.ones_like(torn)
    if rank == 1:
        torn.grad.to_local()[0, 0] = torch.nan
    refusal("a gradient that is not finite on one process", optimizer.step)
    found["torn"] = torn.detach().full_tensor()

    for name, placed, shape, prox in [
        ("columns", Shard(1), (3, 7), Simplex(dim=0)),
        ("whole", Replicate(), (7, 4), Simplex(dim=0)),
        ("kernels", Shard(0), (3, 2, 2), Simplex(dim=1)),
        ("a vector's weights", Shard(0), (5,), L1(torch.arange(5.0))),
    ]:
        p = weight(placed, shape=shape)
        optimizer = ProxAdam([p], prox, lr=0.1)
        gradient = torch.linspace(-1, 1, p.numel(), dtype=torch.float64).view(shape)
        for _ in range(5):
            p.grad = distribute_tensor(gradient, mesh, [Replicate()])  # laid out anew for the parameter
            optimizer.step()
        found["by hand", name] = p.detach().full_tensor()

    apart = [weight(Shard(0)), weight(Shard(1))]
    optimizer = ProxAdam(apart, HELD["weights per entry"](), lr=0.1, foreach=True)
    for _ in range(5):
        for p in apart:
            p.grad = torch.full_like(p, 0.02)
        optimizer.step()
    found["apart"] = [p.detach().full_tensor() for p in apart]

    touched = weight(Shard(0))
    optimizer = PGM([touched], "nonneg")

    def closure():
        optimizer.zero_grad()
        loss = (touched - 1).square().sum()
        loss.backward()
        return loss.detach().full_tensor()

    for _ in range(4):
        optimizer.step(closure)
    with torch.no_grad():
        touched.to_local().fill_(3.0)  # the piece, not through the DTensor
    found["touched"] = optimizer.step(closure)

    torch.save(found, f"{out}{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_optim_distributed import work; "
    code += "work(int(sys.argv[2]), *sys.argv[3:])"
    here = __file__.rsplit("/", 1)[0]
    command = [[sys.executable, "-c", code, here, str(r), str(folder / "meet"), str(folder / "out")] for r in range(2)]
    processes = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in command]
    try:
        errors = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()  # one that waits for another that has failed
    assert all(p.returncode == 0 for p in processes), "\n".join(errors)
    return [torch.load(folder / f"out{r}") for r in range(2)]


def alone(case):
    model = network()
    residual = trained(model, case)[1]
    return [p.detach() for p in model.parameters()], residual


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_two_processes_make_the_trajectory_of_one_on_the_whole_batch(found, kind, case):
    params, residual = alone(case)
    rounding = 1e-7 if "auto" in case[0] else 1e-10  # the automatic rule measures the curvature over a move of √eps
    torch.testing.assert_close(found[0][kind, case], params, rtol=rounding, atol=rounding)
    torch.testing.assert_close(found[0][kind, case, "residual"], residual, rtol=100 * rounding, atol=rounding)
    assert not torch.equal(params[0], network()[0].weight)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_all_processes_hold_the_same_bits(found, kind, case):
    for a, b in zip(found[0][kind, case], found[1][kind, case], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found[0][kind, case, "residual"], found[1][kind, case, "residual"])


def test_the_pieces_were_uneven_and_one_was_empty(found):
    rows = [found[r]["fsdp", CASES[0], "rows"] for r in range(2)]
    assert [(first, last) for first, *_, last in rows] == [(4, 1), (3, 0)]


@pytest.mark.parametrize("case", SAVED, ids=", ".join)
def test_a_distributed_checkpoint_holds_the_state_of_one_process(found, case):
    model = network()
    optimizer = trained(model, case)[0]
    names = dict(model.named_parameters())
    tensors = {(n, key): value for n, p in names.items() for key, value in optimizer.state[p].items() if torch.is_tensor(value)}
    assert found[0]["saved", case].keys() == tensors.keys()
    for key, value in tensors.items():
        torch.testing.assert_close(found[0]["saved", case][key], value, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("case", SAVED, ids=", ".join)
def test_an_optimizer_loaded_from_a_distributed_checkpoint_goes_on_alike(found, case):
    for a, b in zip(found[0]["resumed", case, False], found[0]["resumed", case, True], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(found[0]["resumed", case, True][0], found[0]["fsdp", case][0])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("simplex(dim=0)", r"ValueError: Simplex\(dim=0\) couples dim 0 of parameter 0 of group 0.* sharded .*ignored_params"),
        ("a later group", r"ValueError: Simplex\(dim=1\) couples dim 1 of parameter 0 of group 1"),
        ("a prox put in later", r"ValueError: Simplex\(dim=0\) couples dim 0 of parameter 0"),
        ("a gradient that is not finite on one process", r"RuntimeError: the gradient of parameter 0 .* is not finite"),
        *((kind.__name__, rf"TypeError: {kind.__name__} looks at whole parameters.*take PGM or ProxAdam") for kind in WHOLE),
        ("BSDMM", r"TypeError: BSDMM looks at whole parameters.*take PGM or ProxAdam"),
        ("Proximal", r"TypeError: Proximal looks at whole parameters.*take PGM or ProxAdam"),
    ],
)
def test_what_cannot_be_done_on_pieces_is_refused_by_name_on_every_process(found, kind, words):
    for each in found:
        assert re.match(words, each["refused", kind])


def test_a_gradient_that_is_not_finite_on_one_process_moves_nothing_on_any(found):
    assert torch.equal(found[0]["torn"], torch.full((7, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "shape", "prox"),
    [
        ("columns", (3, 7), Simplex(dim=0)),
        ("whole", (7, 4), Simplex(dim=0)),
        ("kernels", (3, 2, 2), Simplex(dim=1)),
        ("a vector's weights", (5,), L1(torch.arange(5.0))),
    ],
)
def test_parameters_placed_by_hand_move_as_whole_ones(found, name, shape, prox):
    p = nn.Parameter(torch.full(shape, 0.25, dtype=torch.float64))
    optimizer = ProxAdam([p], prox, lr=0.1)
    for _ in range(5):
        p.grad = torch.linspace(-1, 1, p.numel(), dtype=torch.float64).view(shape)
        optimizer.step()
    for each in found:
        torch.testing.assert_close(each["by hand", name], p.detach(), rtol=1e-12, atol=1e-14)


def test_parameters_that_share_an_operator_and_are_placed_apart_each_get_their_piece_of_it(found):
    p = nn.Parameter(torch.full((7, 4), 0.25, dtype=torch.float64))
    optimizer = ProxAdam([p], HELD["weights per entry"](), lr=0.1)
    for _ in range(5):
        p.grad = torch.full_like(p, 0.02)
        optimizer.step()
    for each in found[0]["apart"]:
        torch.testing.assert_close(each, p.detach(), rtol=1e-12, atol=1e-14)


def test_a_write_to_a_piece_between_two_steps_is_noticed(found):
    assert found[0]["touched"] == found[1]["touched"] == 28 * (3.0 - 1.0) ** 2


# ── one process ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", [lambda ps: PGM(ps, "nonneg", lr=0.1, momentum=0.5), lambda ps: ProxAdam(ps, "nonneg", lr=0.1)])
def test_a_scaler_skips_the_step_of_an_overflow_and_else_changes_nothing(make):
    scaled, plain = (nn.Parameter(torch.tensor([0.5, 1.0, 2.0])) for _ in range(2))
    scaler, one, other = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100), make([scaled]), make([plain])
    for factor in (1.0, 1e38, 1.0, 1.0):  # the second overflows once it is scaled
        before = scaled.detach().clone()
        one.zero_grad()
        scaler.scale((factor * (scaled - 1).square()).sum()).backward()
        scaler.step(one)
        scaler.update()
        if factor > 1:
            assert torch.equal(scaled, before)
            continue
        other.zero_grad()
        (plain - 1).square().sum().backward()
        other.step()
    assert scaler.get_scale() == 2.0**9
    torch.testing.assert_close(scaled, plain, rtol=0, atol=0)
    assert not torch.equal(plain, torch.tensor([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("make", [PGM, lambda ps, prox: ProxAdam(ps, prox, lr=0.05)])
def test_under_autocast_the_loss_falls_and_the_weights_stay_in_their_set(make):
    model, (X, y) = network().float(), (t.float() for t in batch())
    optimizer = make(model.parameters(), "nonneg")
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(X).float(), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool((p >= 0).all()) for p in model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: PGM(ps, "nonneg", lr=0.05),
        lambda ps: PGM(ps, "nonneg"),
        lambda ps: ProxAdam(ps, "nonneg"),
        lambda ps: APGM(ps, "nonneg"),
    ],
    ids=["PGM", "PGM auto", "ProxAdam", "APGM"],
)
def test_a_new_closure_in_each_step_makes_the_trajectory_of_one_closure(make):
    """Trainers wrap the closure anew each time."""
    (X, y), found = batch(), []
    for anew in (False, True):
        model = network()
        optimizer = make(model.parameters())

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = mean_square(model, X, y)
            loss.backward()
            return loss

        losses = [optimizer.step((lambda closure=closure: closure()) if anew else closure).item() for _ in range(8)]
        found.append([*model.parameters(), torch.tensor(losses)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


SGD_LIKE = [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}]


def pushed(optimizer, p, grads):
    for g in grads:
        p.grad = g.to(p)
        optimizer.step()


@pytest.mark.parametrize("options", SGD_LIKE, ids=str)
def test_pgm_with_capturable_keeps_its_numbers_in_place_and_the_trajectory(options):
    g = torch.Generator().manual_seed(0)
    grads = [torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(8)]
    a, b = (nn.Parameter(torch.full((3, 4), 0.5, dtype=torch.float64)) for _ in range(2))
    plain = PGM([a], "l1(0.1)", lr=0.1, **options)
    captured = PGM([b], "l1(0.1)", lr=torch.tensor(0.1, dtype=torch.float64), capturable=True, **options)
    pushed(plain, a, grads)
    pushed(captured, b, grads[:1])
    where = {name: value.data_ptr() for name, value in captured.state[b].items()}
    pushed(captured, b, grads[1:])
    assert where == {name: value.data_ptr() for name, value in captured.state[b].items()}
    assert len(where) == (2 if options["momentum"] else 0)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", SGD_LIKE, ids=str)
def test_a_step_of_pgm_with_capturable_asks_the_device_for_no_number(options):
    p = nn.Parameter(torch.empty(4, device="meta"))  # where nothing can be asked
    pushed(PGM([p], "nonneg + l1(0.1)", lr=0.1, capturable=True, **options), p, [torch.empty(4, device="meta")] * 3)


def test_a_checkpoint_goes_from_numbers_to_tensors_and_back():
    p, q, r = (nn.Parameter(torch.ones(3)) for _ in range(3))
    grads = [torch.tensor([1.0, -2.0, 0.3])] * 4
    one, two = (PGM([x], "l1(0.1)", lr=0.1, momentum=0.9, capturable=c) for x, c in ((p, False), (q, True)))
    pushed(one, p, grads)
    saved = one.state_dict()
    saved["param_groups"][0]["capturable"] = True
    two.load_state_dict(copy.deepcopy(saved))
    with torch.no_grad():
        q.copy_(p)
    saved = two.state_dict()
    three = PGM([r], "l1(0.1)", lr=0.1, momentum=0.9)
    saved["param_groups"][0]["capturable"] = False
    three.load_state_dict(copy.deepcopy(saved))
    with torch.no_grad():
        r.copy_(p)
    for optimizer, x in ((one, p), (two, q), (three, r)):
        pushed(optimizer, x, grads)
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(p, r, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_a_compiled_step_of_pgm_is_the_step():
    a, b = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    plain, compiled = (PGM([p], "nonneg + l1(0.1)", lr=torch.tensor(0.01), momentum=0.9, capturable=True) for p in (a, b))
    step = torch.compile(compiled.step, backend="eager")
    for t in range(3):
        for p, move in ((a, plain.step), (b, step)):
            p.grad = torch.linspace(-2, 1 + t, 12).view(3, 4)
            move()
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# ── a GPU ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_the_trajectory_on_a_gpu_is_that_on_the_cpu(case):
    params, residual = alone(case)
    model = network().cuda()
    found = trained(model, case)[1]
    rounding = 1e-7 if "auto" in case[0] else 1e-10
    torch.testing.assert_close([p.detach().cpu() for p in model.parameters()], params, rtol=rounding, atol=rounding)
    torch.testing.assert_close(found, residual, rtol=100 * rounding, atol=rounding)


@gpu
@pytest.mark.parametrize(
    "make",
    [
        *(lambda ps, options=options: PGM(ps, "l1(0.1)", lr=0.05, capturable=True, **options) for options in SGD_LIKE),
        *(lambda ps, form=form: ProxAdam(ps, "l1(0.1)", lr=0.05, capturable=True, form=form) for form in ("adam", "nadam")),
    ],
)
def test_a_graph_replays_the_step(make):
    a, b = (nn.Parameter(torch.linspace(-1, 1, 12, device="cuda")) for _ in range(2))
    for p in (a, b):
        p.grad = torch.linspace(-2, 1, 12, device="cuda")
    plain, captured = make([a]), make([b])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(3):  # the capture itself runs nothing
        graph.replay()
    for _ in range(6):
        plain.step()
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@gpu
def test_a_scaler_on_a_gpu_skips_the_step_of_an_overflow():
    p = nn.Parameter(torch.ones(3, device="cuda"))
    optimizer, scaler = ProxAdam([p], "nonneg"), torch.amp.GradScaler("cuda")
    scaler.scale((1e38 * p).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, torch.ones(3, device="cuda"))
