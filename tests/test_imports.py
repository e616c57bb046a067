"""The architecture is a test: imports go down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import proxfactor

SOURCE = Path(proxfactor.__file__).parent
FLOORS = [
    {"text", "prox", "losses", "comm", "compiled", "serve"},
    {"matrix", "chunked", "optim", "modules", "datasets"},
    {"problem", "streamed", "freed", "ties"},
    {"solvers", "inits"},
    {"fit", "online"},
    {"io", "metrics", "selection", "archetypes"},
    {"estimators", "ratings", "report"},
    {"cli", "__main__"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = [f for f in SOURCE.rglob("*.py") if f != SOURCE / "__init__.py"]


def module(file):
    return file.relative_to(SOURCE).with_suffix("").parts[0]


def imports(file, top=False):
    """(proxfactor's module or None, the foreign package) of every import, those for type checking left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing = [i for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)]
    hidden = {id(n) for i in typing for n in ast.walk(i)}
    package = ["proxfactor", *file.relative_to(SOURCE).parts[:-1]]
    for node in tree.body if top else ast.walk(tree):
        if id(node) in hidden or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [a.name for a in node.names]
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [".".join([*base, n]) for n in names] if base == ["proxfactor"] else [".".join(base)]
        for name in names:
            first, _, rest = name.partition(".")
            yield (rest.split(".")[0] or None, None) if first == "proxfactor" else (None, first)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_go_down_only(file):
    here = module(file)
    used = {name for name, _ in imports(file) if name in FLOOR} - {here}
    assert here in FLOOR, f"{here} is on no floor: give it one"
    assert not {u for u in used if FLOOR[u] > FLOOR[here]}
    if here in FLOORS[6]:
        assert not used & FLOORS[6], "skins do not import each other"


def test_no_floor_holds_a_cycle():
    uses = {}
    for file in FILES:
        uses.setdefault(module(file), set()).update(n for n, _ in imports(file, top=True) if n in FLOOR and n != module(file))
    while leaves := {name for name, used in uses.items() if not used & uses.keys()}:
        uses = {name: used for name, used in uses.items() if name not in leaves}
    assert not uses


@pytest.mark.parametrize("file", [f for f in FILES if module(f) in FLOORS[0]], ids=lambda f: f.name)
def test_the_ground_floor_imports_torch_numpy_and_the_standard_library_only(file):
    foreign = {name for _, name in imports(file, top=True) if name}
    compiled = {"numba", "llvmlite"} if file.name.endswith("_numba.py") else set()
    assert foreign <= {"torch", "numpy", *sys.stdlib_module_names} | compiled


def test_compiled_kernels_are_imported_by_the_functions_that_use_them():
    for file in (f for f in FILES if not f.name.endswith("_numba.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert not [n for n in tree.body if isinstance(n, ast.ImportFrom) and "_numba" in f"{n.module} {[a.name for a in n.names]}"]


def test_importing_the_package_imports_neither_torch_nor_numpy():
    code = "import sys, proxfactor; assert not {'torch', 'numpy'} & sys.modules.keys(), 'heavy'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", proxfactor.__all__)
def test_every_public_name_resolves(name):
    assert getattr(proxfactor, name) is not None
    assert name in dir(proxfactor)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        proxfactor.nonsense  # noqa: B018


def test_the_stub_names_the_same_things():
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    named = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    named |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert set(proxfactor.__all__) <= named
