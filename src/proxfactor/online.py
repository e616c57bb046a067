"""Online: H learned from batches that come and go; what stays of them are sums."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fit import Result, best_rows, give_back
from .inits import lifted, start
from .losses import KL, Frobenius, Loss, as_loss
from .matrix import Dense, Table, as_table
from .problem import Problem, Quadratic
from .prox import Prox, as_prox
from .solvers import Alternating, Memory, Solver, as_solver
from .solvers.em import from_counts
from .streamed import Streamed, counts, problem_of


class Online:
    """H (rank, n) for rows that come in batches: what is kept of a batch is S = WᵀW and B = XᵀW, added to forget · the earlier.

    Each batch gets its W, and H minimises Σ_t forget^(T - t) loss(X_t, W_t H) + h(H) with the W_t that each batch had, by the
    operators and half-steps of ``factorize``; a few ``sweeps`` go to and fro between the newest W and H. With holes or weights
    S is one matrix for each column (n, k, k). Under KL the sums are those of EM: s = Σ_i w_iq and, of each component, the
    counts that it explains, N = Σ_i x_ij w_iq h_qj / (w_i h_j), which bound the loss from above. Other losses have no such
    sums; for them use ``factorize`` with ``Chunked``.

    Args:
        rank, W, H, loss, solver, init, seed: as in ``factorize``; the first batch gives the start, by itself a random one: what
            is made of the singular vectors of a few rows suits these few only.
        forget: what the sums so far weigh when a batch comes, in (0, 1]; 1 forgets nothing.
        sweeps: the alternations for each batch.

    Raises ValueError for another loss, and for a constraint on W that couples rows. (Mairal, Bach, Ponce and Sapiro 2010;
    Cappé and Moulines 2009 for EM.)

    >>> online = Online(1, W="nonneg", H="nonneg")
    >>> for batch in ([[1.0, 2.0]], [[2.0, 4.0], [3.0, 6.0]]):
    ...     _ = online.partial_fit(batch)
    >>> W = online.transform([[5.0, 10.0]])
    >>> (W @ online.H).round(6)
    array([[ 5., 10.]])
    """

    def __init__(
        self,
        rank: int,
        *,
        W: Any = None,
        H: Any = None,
        loss: Loss | str = "frobenius",
        forget: float = 1.0,
        sweeps: int = 10,
        init: Any = "random",
        solver: Solver | str = "auto",
        seed: int = 0,
    ):
        self.rank, self.forget, self.sweeps, self.init, self.seed = rank, forget, sweeps, init, seed
        self.loss, self.prox_W, self.prox_H, self.solver = as_loss(loss), as_prox(W), as_prox(H), solver
        self._check()
        self.factor: Tensor | None = None
        self.sums: tuple[Tensor, ...] | None = None
        self.cols: np.ndarray | None = None
        self.form: Any = "numpy"
        self.batches, self.rows = 0, 0
        self.history: list[dict[str, float]] = []

    def _check(self) -> None:
        for name, least in (("rank", 1), ("sweeps", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} is {value!r}; it is a whole number of at least {least}")
        if isinstance(self.forget, bool) or not isinstance(self.forget, int | float) or not 0 < self.forget <= 1:
            raise ValueError(f"forget is {self.forget!r}; it is in (0, 1], and 1 forgets nothing")
        if not isinstance(self.loss, Frobenius | KL):
            raise ValueError(
                f"{self.loss!r} leaves no sums by which a batch could be remembered, as Frobenius() and KL() do; "
                "use one of them, or factorize(Chunked(…)), which reads the data again"
            )
        if self.prox_W.couples(0):
            raise ValueError(f"{self.prox_W!r} on W couples rows, which come in different batches; constrain H, or use factorize")

    @torch.no_grad()
    def partial_fit(self, X: Any, weight: Any = None) -> Online:
        """Learn from a batch of rows, of any number; columns are aligned by name. A batch that is Chunked is taken chunk by chunk.

        ``history`` gets a row: the batch, its rows, and the relative error that it had under the H from before (NaN for the first).
        Raises ValueError for other columns than those of the first batch.
        """
        table = self._table(X, weight)
        problem = problem_of(table.matrix, self.loss, self.prox_W, self.prox_H)
        if isinstance(problem, Streamed):
            for _, part in problem.chunks():
                self._learn(part)
        else:
            self._learn(problem)
        return self

    def _table(self, X: Any, weight: Any = None) -> Table:
        table = as_table(X, weight)
        if self.factor is None:
            self.cols, self.form = table.cols, table.form
            return table
        table = table.with_columns(self.cols)
        if table.matrix.shape[1] != self.factor.shape[1]:
            raise ValueError(f"X has {table.matrix.shape[1]} columns, the first batch had {self.factor.shape[1]}; give the same")
        return Table(table.matrix.to(self.factor.device, self.factor.dtype), table.rows, table.cols, table.form)

    def _learn(self, problem: Problem) -> None:
        m, n = problem.X.shape
        problem.prox_W.check((m, self.rank), "W")
        problem.prox_H.check((self.rank, n), "H")
        solver, error = as_solver(self.solver, problem), math.nan
        if self.factor is None:
            W, H = start(problem, self.rank, self.init, self.seed)
        else:
            H = self.factor
            W = best_rows(problem, solver, H.mT, 1e-2)
            if not self.loss.quadratic:  # a column that had no counts before has them now
                W, H = lifted(problem, W, H)
            error = problem.relative_error(W, H)
        before = None if self.sums is None else tuple(self.forget * t for t in self.sums)
        w, h, B = Memory(), Memory(), H.mT.contiguous()
        for _ in range(self.sweeps if before else 10 * self.sweeps):  # the first one has a start to make good
            W = solver.half(problem, W, B, w)
            mine = self._sums(problem, W, B)
            sums = mine if before is None else tuple(a + b for a, b in zip(before, mine, strict=True))
            B = self._best(problem.T.prox_W, solver.sized(n, m, self.rank), sums, B, h)
        self.factor, self.sums = B.mT.contiguous(), sums
        self.batches, self.rows = self.batches + 1, self.rows + m
        self.history.append({"batch": self.batches, "rows": m, "error": error})

    def _sums(self, problem: Problem, W: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch adds, for H's side: (S, B) of Frobenius, (s, N) of KL."""
        return problem.T._summands(B, W) if self.loss.quadratic else counts(problem.T, B, W)

    def _best(self, prox: Prox, solver: Alternating, sums: tuple[Tensor, ...], B: Tensor, memory: Memory) -> Tensor:
        """A better Hᵀ for these sums."""
        if self.loss.quadratic:
            return solver.rows(prox, Quadratic(*sums), B, memory)
        s, N = sums
        return from_counts(solver, prox, s, N, B)

    @property
    def H(self) -> Any:
        """H (rank, n) as it is now, in the form of the first batch."""
        return give_back(self._known(), self.form, [str(q + 1) for q in range(self.rank)], self.cols)

    def transform(self, X: Any, weight: Any = None) -> Any:
        """W for rows of data, old or new, with H as it is now; as ``Result.transform``."""
        return self._result(self._known().new_zeros(0, self.rank)).transform(X, weight)

    @torch.no_grad()
    def result(self, X: Any, weight: Any = None) -> Result:
        """The Result for this data, in memory or Chunked: W is its ``transform``, H as it is now, the certificates of both."""
        H, table = self._known(), self._table(X, weight)
        problem = problem_of(table.matrix, self.loss, self.prox_W, self.prox_H)
        W = best_rows(problem, as_solver(self.solver, problem), H.mT, 1e-5)
        value, (w, h) = problem.value(W, H).item(), problem.certificate(W, H)
        row = {"iteration": self.batches, "seconds": 0.0, "loss": value, "certificate_W": w.item(), "certificate_H": h.item()}
        made = self._result(W, table, problem, [row])
        made.error = problem.relative_error(W, H)
        made.violation = {"W": problem.prox_W.violation(W).amax().item(), "H": problem.prox_H.violation(H).amax().item()}
        return made

    def _result(self, W: Tensor, table: Table | None = None, problem: Problem | None = None, history: Any = ()) -> Result:
        H = self._known()
        return Result(
            factors=(W, H),
            loss=self.loss,
            prox_W=self.prox_W,
            prox_H=self.prox_H,
            solver=as_solver(self.solver, Problem(Dense(H), self.loss, self.prox_W, self.prox_H)),
            history=list(history),
            stopped="online",
            status=f"H was learned from {self.batches} batches, {self.rows} rows; the certificates say how it suits this data.",
            error=math.nan,
            violation={},
            settings={"rank": self.rank, "seed": self.seed, "tol": 1e-5, "forget": self.forget, "sweeps": self.sweeps}
            | {"dtype": str(H.dtype).removeprefix("torch."), "shape": [len(W), H.shape[1]]},
            rows=None if table is None else table.rows,
            cols=self.cols,
            form=self.form if table is None else table.form,
            problem=problem,
        )

    def _known(self) -> Tensor:
        if self.factor is None:
            raise ValueError("nothing has been learned yet; call partial_fit with a first batch")
        return self.factor

    # kept in a file

    def state_dict(self) -> dict[str, Tensor]:
        """What has been learned, as plain tensors: H, the sums, the number of batches and rows."""
        H, (one, two) = self._known(), self.sums or ()
        count = torch.tensor([self.batches, self.rows])
        errors = torch.tensor([[row["rows"], row["error"]] for row in self.history], dtype=torch.float64)
        return {"H": H, "sums.0": one, "sums.1": two, "count": count, "history": errors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state_dict`` gave. Raises ValueError where it is of another rank or loss."""
        if lacking := {"H", "sums.0", "sums.1", "count", "history"} - state.keys():
            raise ValueError(f"the state has no {min(lacking)}; give what state_dict gave")
        H, one, two = (state[name] for name in ("H", "sums.0", "sums.1"))
        n, k = H.shape[1], self.rank
        fitting = [(k, k), (n, k, k)] if self.loss.quadratic else [(n, k)]
        if len(H) != k or tuple(one.shape) not in fitting or tuple(two.shape) != (n, k):
            raise ValueError(f"the state does not fit rank {k} and {self.loss!r}; make Online with what it was made with")
        self.factor, self.sums = H.clone(), (one.clone(), two.clone())
        self.batches, self.rows = state["count"].tolist()
        self.history = [{"batch": i + 1, "rows": int(m), "error": e} for i, (m, e) in enumerate(state["history"].tolist())]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what has been learned and how, as safetensors, whole or not at all.

        >>> import tempfile
        >>> file = Online(1).partial_fit([[1.0, 2.0]]).save(Path(tempfile.mkdtemp(), "online.safetensors"))
        >>> Online.load(file).partial_fit([[2.0, 4.0]]).rows
        2
        """
        from safetensors.torch import save

        texts: dict[str, str] = {}
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        for name, part in (("loss", self.loss), ("W", self.prox_W), ("H", self.prox_H)):
            texts[name], held = part.spell()
            tensors |= {f"{name}.{key}": t.detach().cpu().contiguous().clone() for key, t in held.items()}
        solver = self.solver if isinstance(self.solver, str) else self.solver.spell()[0]
        options = {"rank": int(self.rank), "forget": self.forget, "sweeps": self.sweeps, "seed": int(self.seed), "solver": solver}
        cols = None if self.cols is None else [str(c) for c in self.cols]
        about = {"format_version": "1", "form": self.form if isinstance(self.form, str) else "numpy"}
        about |= {"texts": json.dumps(texts), "options": json.dumps(options), "cols": json.dumps(cols)}
        place = Path(path)
        fresh = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        try:
            fresh.write_bytes(save(tensors, about))
            fresh.replace(place)
        finally:
            fresh.unlink(missing_ok=True)
        return place

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Online:
        """What ``save`` wrote. Raises ValueError where the file is something else or damaged."""
        from safetensors import safe_open

        try:
            with safe_open(os.fspath(path), "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            texts, options, cols = (json.loads(about[key]) for key in ("texts", "options", "cols"))
        except FileNotFoundError:
            raise
        except Exception as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{os.fspath(path)}: is no state that Online.save wrote ({why}); save it again") from None

        def held(part: str) -> dict[str, Tensor]:
            return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}

        made = cls(
            W=Prox.parse(texts["W"], held("W")),
            H=Prox.parse(texts["H"], held("H")),
            loss=Loss.parse(texts["loss"], held("loss")),
            **options,
        )
        made.load_state_dict(tensors)
        made.cols, made.form = None if cols is None else np.array(cols, dtype=object), about.get("form", "numpy")
        return made

    def __repr__(self) -> str:
        learned = "nothing yet" if self.factor is None else f"{self.rows} rows in {self.batches} batches"
        return f"Online(rank {self.rank}, {self.loss!r}, W {self.prox_W!r}, H {self.prox_H!r}: {learned})"
