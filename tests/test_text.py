"""The text form: what is written can be read, and nothing is ever evaluated."""

import math

import numpy as np
import pytest
import torch
from operators import EXAMPLES, drawn

from proxfactor.losses import KL, ByColumn, Loss
from proxfactor.prox import L1, Box, Entropy, Fixed, L2Squared, NonNegative, Prox, Simplex, SumToOne, Transposed, Unconstrained

X = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)


@pytest.mark.parametrize("e", EXAMPLES, ids=repr)
def test_what_is_spelled_is_read_back(e):
    p, X = e.op, drawn(0, *e.shape)
    text, tensors = p.spell()
    twin = Prox.parse(text, tensors)
    assert type(twin) is type(p)
    assert repr(twin) == repr(p) == text
    assert torch.equal(twin(X, 0.3), p(X, 0.3))


@pytest.mark.parametrize("loss", Loss.catalogue())
def test_a_loss_is_read_back(loss):
    made = loss({0: "kl", "1:3": "huber(2)"}) if issubclass(loss, ByColumn) else loss()
    assert type(Loss.parse(*made.spell())) is loss


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("nonneg", NonNegative()),
        ("NONNEGATIVE()", NonNegative()),
        (" nonneg + l1(0.1) ", NonNegative() + L1(0.1)),
        ("nonneg + l1(0.1) + ridge", NonNegative() + L1(0.1) + L2Squared(1)),
        ("(l1(1e-3) + L2Squared(+2))", L1(1e-3) + L2Squared(2)),
        ("simplex(dim=1)", Simplex(1)),
        ("Simplex(-1, 2.5)", Simplex(-1, 2.5)),
        ("sum1(0)", SumToOne(0)),
        ("box(-1, 1)", Box(-1, 1)),
        ("box(0, inf)", Box(0, math.inf)),
        ("box(-inf, 1)", Box(-math.inf, 1)),
        ("L1(lam=0.1)", L1(0.1)),
        ("entropy", Entropy(1.0)),
        ("free", Unconstrained()),
        ("transposed(simplex(0))", Transposed(Simplex(0))),
        ("transposed(nonneg)", Transposed(NonNegative())),
    ],
)
def test_names_have_no_case_and_one_alias_each(text, meant):
    assert repr(Prox.parse(text)) == repr(meant)


def test_tensors_are_named_by_a_dollar_and_looked_up():
    w = np.array([0.5, 1.0, 1.5, 2.0])
    assert torch.equal(Prox.parse("nonneg + l1($w)", {"w": w})(X), (NonNegative() + L1(torch.from_numpy(w)))(X))
    assert torch.equal(Prox.parse("box([0, 1, 0, 1], (1, 1, 2, inf))")(X), Box([0, 1, 0, 1], [1, 1, 2, math.inf])(X))
    with pytest.raises(ValueError, match=r"\$w; given: \$v"):
        Prox.parse("l1($w)", {"v": w})
    with pytest.raises(ValueError, match="none were given"):
        Prox.parse("l1($w)")


def test_two_tensors_of_one_name_are_told_apart():
    a, b = torch.ones(3, 4), torch.eye(3, 4)
    text, tensors = (L1(a) + L2Squared(b)).spell()
    assert text == "L1($lam) + L2Squared($lam_)"
    assert tensors["lam"] is a
    assert tensors["lam_"] is b


def test_a_mask_stays_a_mask():
    text, tensors = Fixed(torch.ones(2), torch.tensor([True, False])).spell()
    assert Prox.parse(text, tensors).mask.dtype == torch.bool


def test_a_numpy_number_is_written_as_a_number():
    assert repr(L1(np.float64(2.5))) == "L1(2.5)"
    assert repr(Simplex(np.int64(1), np.float32(2.5))) == "Simplex(dim=1, total=2.5)"
    assert repr(L1(1e22)) == "L1(1e+22)"
    assert repr(L1(3.0)) == "L1(3)"


HOSTILE = [
    "nonneg.parse('l1')",
    "l1.__init__.__globals__",
    "print('x')",
    "eval('1')",
    "__import__('os').system('true')",
    "__import__('os')",
    "[nonneg for _ in (1,)]",
    "l1(0 for _ in (1,))",
    "lambda: nonneg",
    "l1(lambda: 1)",
    "f'{nonneg}'",
    "l1(f'{1}')",
    "nonneg if True else l1",
    "nonneg and l1",
    "(x := nonneg)",
    "l1(*[1])",
    "l1(**{'lam': 1})",
    "l1(1)(2)",
    "nonneg[0]",
    "l1(1 + 1)",
    "l1(2 * 3)",
    "nonneg - l1",
    "nonneg; l1",
    "import os",
    "l1(b'1')",
    "l1(1j)",
    "l1(...)",
    "l1({[]: 1})",
    "l1({**{}})",
    "\0",
    "l1('a\\'$w')",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_but_names_numbers_calls_and_plus_is_read(text):
    with pytest.raises(ValueError, match=r"."):
        Prox.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000 + "nonneg" + ")" * 10_000,
        "(" * 4_000 + "nonneg" + ")" * 4_000,
        "l1(" + "-" * 5_000 + "1)",
        "nonneg" + "+nonneg" * 1_400,
        "transposed(" * 800 + "nonneg" + ")" * 800,
        "[" * 4_000,
        "l1(1" + "0" * 400 + ")",
        "l1(1" + "0" * 9_000 + ")",
        "l1(" + "9" * 20_000 + ")",
    ],
    ids=lambda text: f"{text[:8]}… {len(text)}",
)
def test_a_text_that_is_too_long_or_too_deep_is_refused_in_a_short_message(text):
    with pytest.raises(ValueError, match=r"at most|not an expression|too deep|array of numbers is needed") as caught:
        Prox.parse(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty text names no prox"),
        ("   ", "empty text"),
        ("nonnegg", r"unknown prox 'nonnegg'; did you mean NonNegative"),
        ("simplx(dim=1)", "did you mean Simplex"),
        ("zzz", r"known: (Box|the \d+ that `proxfactor operators` lists)"),
        ("kl", "unknown prox 'kl'"),
        ("l1(nan)", "nan"),
        ("l1(-1)", "finite and at least 0"),
        ("l1(inf)", "finite and at least 0"),
        ("l1(1, 2)", r"too many .*it takes \(lam\)"),
        ("l1(weight=1)", r"unexpected .*'weight'.* it takes \(lam\)"),
        ("l1(1, lam=2)", "multiple values"),
        ("l1(lam=1, lam=2)", "argument twice"),
        ("simplex", r"missing a required argument: 'dim'; it takes \(dim, total\)"),
        ("simplex(dim=1.5)", "whole number"),
        ("simplex(0, None)", "number"),
        ("box(1, 0)", "empty"),
        ("box([1, 2], [1, 2, 3])", "shapes of lo and hi"),
        ("l1(-True)", "sign before"),
        ("l1(+True)", "sign before"),
        ("-nonneg", "sign before"),
        ("l1('a')", "number"),
        ("l1(nonneg)", "number"),
        ("l1(None)", "number"),
        ("l1([1, 'a'])", "number"),
        ("transposed(3)", "operator is needed"),
        ("nonneg + 3", "adds something other"),
        ("3", "is not a prox"),
        ("inf", "is not a prox"),
        ("'nonneg'", "is not a prox"),
        ("nonneg +", "not an expression; write something like 'nonneg"),
        ("nonneg + unity(0)", "no exact rule"),
    ],
)
def test_a_mistake_is_explained_in_one_sentence(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        Prox.parse(text)
    assert "\n" not in str(caught.value)


def test_only_the_asked_kind_is_read():
    assert isinstance(Loss.parse("KL"), KL)
    with pytest.raises(ValueError, match="unknown loss 'nonneg'"):
        Loss.parse("nonneg")
    with pytest.raises(ValueError, match="cannot be added"):
        Loss.parse("kl + kl")
    with pytest.raises(ValueError, match="empty"):
        Prox.parse(None)


def test_the_catalogue_lists_every_operator_once_and_no_helper():
    names = [c.__name__ for c in Prox.catalogue()]
    assert len(names) == len(set(names))
    assert {"NonNegative", "L1", "Simplex", "Transposed"} <= set(names)
    assert not {"Sum", "Function", "_Along"} & set(names)
    words = [w.lower() for c in Prox.catalogue() for w in (c.__name__, c.alias) if w]
    assert len(words) == len(set(words))
