"""How good a recommender is: errors of ratings, intervals, and ranked lists whose ties count as a random order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .tables import Ratings, cells_of, codes_of, source_of

BYTES = 2**26
"""Scores and their temporaries that are in memory at a time."""

RATING = ("rmse", "mae")
INTERVAL = ("interval_coverage", "interval_score", "crps")
RANKING = ("recall", "capped_recall", "precision", "ndcg", "map", "mrr", "hit_rate", "auc", "coverage", "novelty", "gini")
USUAL = tuple(name for name in RANKING if name not in ("auc", "gini"))
"""The measures of rankings that nobody has to ask for."""

_NEVER = 2**40
_SCORE = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Mapping[str, float]):
    """What was measured: a mapping of measures to numbers, which knows how sure they are and prints as a table.

    ``errors`` holds the standard errors: the users are a sample of users, and the cells of one user err together. Where a
    measure has none (coverage, gini, one user) it is NaN. ``users`` (U,) are the ids, ``by_user`` the measures of each (NaN
    for a user whom a measure skips), ``influence`` (U,) how much each has moved a measure, ``notes`` what the reader must
    know about who was counted.
    """

    measured: dict[str, float]
    by_user: dict[str, np.ndarray]
    influence: dict[str, np.ndarray]
    users: np.ndarray
    cells: int
    notes: tuple[str, ...] = ()
    table: Callable[[dict[str, Any]], Any] = field(default=dict)

    def __getitem__(self, name: str) -> float:
        if name not in self.measured:
            raise KeyError(f"{name!r} was not measured; there are {', '.join(self.measured)}")
        return self.measured[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measured)

    def __len__(self) -> int:
        return len(self.measured)

    @property
    def errors(self) -> dict[str, float]:
        """The standard error of each measure: (U/(U-1) Σ_u influence_u²)^½ over the U users that it counts."""
        return {name: _standard_error(self.influence[name]) if name in self.influence else math.nan for name in self}

    def difference(self, other: Evaluation) -> Evaluation:
        """This minus the other, measure by measure, with the standard error of the paired difference over the same users.

        Raises ValueError if the two were not measured on the same users.
        """
        if not np.array_equal(self.users, other.users):
            raise ValueError("the two evaluations are of different users; a paired difference needs the same test set")
        both = [name for name in self if name in other]
        paired = [name for name in both if name in self.influence and name in other.influence]
        return Evaluation(
            {name: self[name] - other[name] for name in both},
            {name: self.by_user[name] - other.by_user[name] for name in paired},
            {name: self.influence[name] - other.influence[name] for name in paired},
            self.users,
            self.cells,
            tuple(dict.fromkeys(self.notes + other.notes)),
            self.table,
        )

    def per_user(self) -> Any:
        """A frame with a row for each user and a column for each measure, in the library of the test set."""
        return self.table({"user": self.users, **self.by_user})

    def __repr__(self) -> str:
        wide = max(map(len, self), default=0)
        errors = self.errors
        lines = [f"{name:{wide}}  {self[name]:9.4f}" + _plus_minus(errors[name]) for name in self]
        counted = f"{len(self.users):,} user{'s' * (len(self.users) != 1)}, {self.cells:,} cell{'s' * (self.cells != 1)}"
        return "\n".join([*lines, counted, *self.notes])


def _plus_minus(error: float) -> str:
    return "" if math.isnan(error) else f" ± {error:.4f}"


def _standard_error(influence: np.ndarray) -> float:
    phi = influence[~np.isnan(influence)]
    return math.sqrt(len(phi) / (len(phi) - 1) * float(phi @ phi)) if len(phi) > 1 else math.nan


# ── ratings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def rating_measures(
    rating: Any,
    mean: Any,
    std: Any = None,
    weight: Any = None,
    *,
    user: Any = None,
    activity: Any = None,
    measures: Iterable[str] | None = None,
    level: float = 0.9,
) -> Evaluation:
    """How far predictions are from ratings, and how well their standard deviations know it.

    rmse               (Σ w (y - μ)² / Σ w)^½
    mae                Σ w |y - μ| / Σ w
    interval_coverage  the share of ratings inside μ ± z σ, z the quantile of the normal that leaves 1 - level outside; then
                       in each fifth of the users by activity and of the cells by σ, ties kept together
    interval_score     (u - l) + 2/a (l - y)₊ + 2/a (y - u)₊ with a = 1 - level: width plus misses (Gneiting and Raftery 2007)
    crps               σ (z (2Φ(z) - 1) + 2φ(z) - 1/√π) with z = (y - μ)/σ: the whole normal at once (ibid.)

    rating, mean, std, weight (cells,); user (cells,) whole numbers from 0 on, whose cells err together; activity (cells,)
    how much is known of the user. Without std there are no intervals; their measures carry the level, as in
    ``interval_score@0.9``. Raises ValueError for no cells, for lengths that differ and for what is not finite.

    >>> rating_measures([1.0, 2.0, 4.0], [1.0, 3.0, 4.0])["mae"]
    0.3333333333333333
    """
    y, mu = _column("rating", rating, rating), _column("mean", mean, rating)
    sigma, active = (None if v is None else _column(name, v, rating) for name, v in (("std", std), ("activity", activity)))
    w = np.ones(len(y)) if weight is None else _column("weight", weight, rating)
    who = np.arange(len(y)) if user is None else np.asarray(user)
    if (w < 0).any() or not w.sum() > 0:
        raise ValueError("weight must be at least 0, and somewhere above 0")
    if sigma is not None and (sigma <= 0).any():
        raise ValueError("std holds numbers that are not above 0; a standard deviation is")
    asked = [*RATING, *(INTERVAL if sigma is not None else ())] if measures is None else list(measures)
    values, by_user, influence = {}, {}, {}
    for text in asked:
        name, at = _named(text, level, INTERVAL)
        if name not in RATING + INTERVAL:
            raise ValueError(f"{text!r} is no measure of ratings; there are {', '.join(RATING + INTERVAL)}")
        label = f"{name}@{at:g}" if name.startswith("interval") else name
        if name in RATING:
            parts = {label: (y - mu) ** 2 if name == "rmse" else np.abs(y - mu)}
        elif sigma is None:
            raise ValueError(f"{text!r} needs standard deviations: a model with return_std, such as BayesianMF")
        else:
            parts = {label: _interval(name, (y - mu) / sigma, sigma, at)}
        if name == "interval_coverage" and sigma is not None:
            groups = {"spread": _fifths(sigma)} if active is None else {"activity": _fifths(active, who), "spread": _fifths(sigma)}
            each = [(f"{label}/{by} {g + 1}", at) for by, of in groups.items() for g, at in of if w[at].any()]
            parts |= {part: np.where(at, parts[label], np.nan) for part, at in each}
        for part, x in parts.items():
            values[part], by_user[part], influence[part] = _averaged(x, w, who, root=name == "rmse")
    return Evaluation(values, by_user, influence, np.arange(who.max() + 1), len(y))


def _column(name: str, values: Any, rating: Any) -> np.ndarray:
    v = np.asarray(values, np.float64)
    if v.ndim != 1 or v.shape != np.shape(rating):
        raise ValueError(f"{name} has shape {v.shape} and rating {np.shape(rating)}; both are one number for each cell")
    if not len(v):
        raise ValueError("there are no ratings to measure: the test set is empty")
    if not np.isfinite(v).all():
        raise ValueError(f"{name} holds {(~np.isfinite(v)).sum()} numbers that are NaN or infinite")
    return v


def _named(text: str, default: float, where: tuple[str, ...]) -> tuple[str, float]:
    name, _, at = text.partition("@")
    try:
        value = float(at) if at else default
    except ValueError:
        raise ValueError(f"{text!r}: what follows @ is a number, as in ndcg@10 or interval_score@0.9") from None
    if name in where and not 0 < value < 1:
        raise ValueError(f"level is {value:g}; it lies between 0 and 1, like 0.9")
    return name, value


def _interval(name: str, z: np.ndarray, sigma: np.ndarray, level: float) -> np.ndarray:
    """The measure of each cell, z its distance from the mean in standard deviations."""
    from scipy.special import ndtr, ndtri

    half = ndtri(0.5 + level / 2)
    if name == "interval_coverage":
        return (np.abs(z) <= half).astype(np.float64)
    if name == "interval_score":
        return sigma * (2 * half + 2 / (1 - level) * np.maximum(np.abs(z) - half, 0))
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def _averaged(x: np.ndarray, w: np.ndarray, who: np.ndarray, root: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """The weighted mean of the cells that are not NaN (or its root), that of each user, and the users' influence on it."""
    w, m = np.where(np.isnan(x), 0, w), int(who.max()) + 1
    total, size = np.bincount(who, w * np.nan_to_num(x), m), np.bincount(who, w, m)
    mean = total.sum() / size.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        each = total / size  # NaN for a user without cells here
        phi = np.where(size > 0, (total - size * mean) / size.sum(), np.nan)
        return (math.sqrt(mean), np.sqrt(each), phi / (2 * math.sqrt(mean) or 1)) if root else (float(mean), each, phi)


def _fifths(v: np.ndarray, who: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """The cells of each fifth of v (of the users' v, if who is given) that holds any; equal values are in one."""
    units = v if who is None else v[np.unique(who, return_index=True)[1]]
    group = np.searchsorted(np.quantile(units, [0.2, 0.4, 0.6, 0.8]), v)
    return ((g, group == g) for g in range(5) if (group == g).any())


# ── ranked lists ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ranking_measures(
    scores: np.ndarray | _SCORE,
    relevant: tuple[Any, ...],
    seen: tuple[Any, Any] | None = None,
    *,
    n: int | None = None,
    k: int | Iterable[int] = 10,
    measures: Iterable[str] | None = None,
    users: int | None = None,
    share: Any = None,
) -> Evaluation:
    """How well scores put the relevant items first: each number is the mean over all orders of items with equal scores.

    With T_u the relevant items of a user, rel(p) whether the item at place p is one, and hits the number of them among the first k:

    recall@k         hits / |T_u|
    capped_recall@k  hits / min(k, |T_u|), which can reach 1
    precision@k      hits / k
    ndcg@k           Σ_{p≤k} gain_p / log₂(p + 1), over the same sum for the best order (Järvelin and Kekäläinen 2002)
    map@k            Σ_{p≤k} rel(p) · precision@p / min(k, |T_u|)
    mrr@k            1 / the place of the first hit, 0 if it is beyond k
    hit_rate@k       whether there is a hit
    auc              the share of pairs (relevant, other candidate) in the right order, ties one half
    novelty@k        the mean of -log₂(share of users who know the item) over the first k (Zhou et al. 2010)
    coverage@k       the share of all items that are expected on somebody's first k
    gini@k           how unequally the first k places fall to the items: 0 all the same, 1 one takes them all

    All but the last two are means over the users who have relevant items. Constant scores get exactly what a random order
    gets on average: in a group of tied items the hits are spread hypergeometrically, and no measure depends on where an item
    stands in the catalogue.

    Args:
        scores: (m, n), or a function of positions of users (b,) that gives (b, n); at most 64 MB are asked for at a time.
        relevant: positions (user, item), and a gain above 0 for each if they are graded; item -1 is one that the scores do
            not know: a miss, since the user misses it.
        seen: positions (user, item) that are not recommended; what is also relevant is left out there.
        n: the number of items, where scores is a function; users: the number of users m, if not those that appear.
        k: the length of the list, or several; ``measures=["ndcg@10", "auc"]`` says it by name.
        share: (n,) the share of users who know each item, for novelty.

    Raises ValueError if nothing is relevant, a score is NaN or a gain is not above 0.

    >>> ranking_measures(np.zeros((1, 4)), ([0], [2]), k=1)["recall@1"]
    0.25
    """
    score, n, m = _scorer(scores, n, users, relevant)
    wanted = _wanted(k, measures)
    known, hidden = _cells(relevant, seen, m, n)
    if share is None and any(name == "novelty" for _, name, _ in wanted):
        if measures is not None:
            raise ValueError("novelty needs share: how many of the users know each item")
        wanted = [row for row in wanted if row[1] != "novelty"]
    depth = n if any(name == "auc" for _, name, _ in wanted) else min(n, max(at for _, _, at in wanted))
    lists = {at: _Lists(n, share) for _, name, at in wanted if name in ("coverage", "novelty", "gini")}
    places = _places(score, known, hidden, m, n, depth, lists)
    values, by_user, influence = {}, {}, {}
    for label, name, at in wanted:
        if name in ("coverage", "gini"):
            values[label] = getattr(lists[at], name)()
            continue
        x = np.full(m, np.nan)
        x[places.users] = lists[at].novelty() if name == "novelty" else getattr(places, name)(at)
        values[label], by_user[label] = float(np.nanmean(x)), x
        influence[label] = (x - values[label]) / len(places.users)
    left = len(relevant[0]) - len(known[0])
    notes = (f"relevant cells that were seen, left out: {left:,}",) if left else ()
    return Evaluation(values, by_user, influence, np.arange(m), len(known[0]), notes)


def _scorer(scores: Any, n: int | None, m: int | None, relevant: tuple[Any, ...]) -> tuple[_SCORE, int, int]:
    if callable(scores):
        if n is None:
            raise ValueError("scores is a function; give n, the number of items")
        return scores, n, int(np.max(relevant[0], initial=-1)) + 1 if m is None else m
    table = np.asarray(scores)
    if table.ndim != 2:
        raise ValueError(f"scores has shape {table.shape}; it is a table of users x items, or a function that gives one")
    return table.__getitem__, table.shape[1], table.shape[0]


def _wanted(k: int | Iterable[int], measures: Iterable[str] | None) -> list[tuple[str, str, int]]:
    """(label, measure, k) of each."""
    lengths = [k] if isinstance(k, int | np.integer) else list(k)
    wanted = []
    for text in USUAL if measures is None else measures:
        if text.partition("@")[0] not in RANKING:
            raise ValueError(f"{text!r} is no measure of rankings; there are {', '.join(RANKING)}")
        for length in lengths if "@" not in text else [0]:
            name, at = _named(text, length, ())
            if at < 1 or at != int(at):
                raise ValueError(f"k is {at:g}; it is the length of a list, at least 1")
            wanted.append((name if name == "auc" else f"{name}@{int(at)}", name, int(at)))
    return list(dict.fromkeys(wanted))


def _cells(
    relevant: tuple[Any, ...], seen: tuple[Any, Any] | None, m: int, n: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Relevant cells (user, item, gain) and seen ones, both sorted by user; what is seen is not relevant any more."""
    user, item = (np.asarray(v, np.int64) for v in relevant[:2])
    gain = np.asarray(relevant[2], np.float64) if len(relevant) > 2 else np.ones(len(user))
    if not (gain > 0).all():
        raise ValueError("gains must be above 0: an item without gain is not relevant")
    before = np.empty((2, 0), np.int64) if seen is None else np.asarray(seen, np.int64)
    hidden = before[0] * n + before[1]
    hidden = hidden if (hidden[1:] > hidden[:-1]).all() else np.unique(hidden)
    cell = user * n + item
    at = np.searchsorted(hidden, cell)
    keep = (item < 0) | (np.append(hidden, -1)[at] != cell)
    if not keep.any():
        raise ValueError("nothing is relevant: there is no cell to be found" + (" that was not seen before" if len(user) else ""))
    order = np.flatnonzero(keep)[np.argsort(user[keep], kind="stable")]
    return (user[order], item[order], gain[order]), (hidden // n, hidden % n)


def _places(
    score: _SCORE,
    known: tuple[np.ndarray, np.ndarray, np.ndarray],
    hidden: tuple[np.ndarray, np.ndarray],
    m: int,
    n: int,
    depth: int,
    lists: dict[int, _Lists],
) -> Places:
    """Where the relevant items stand, users in batches."""
    user, item, gain = known
    users = np.unique(user)
    above, tied = np.full(len(user), _NEVER), np.ones(len(user), np.int64)
    rows = max(1, BYTES // (16 * n))
    for start in range(0, len(users), rows):
        who = users[start : start + rows]
        given = np.asarray(score(who))
        block = np.array(given, given.dtype if given.dtype.kind == "f" else np.float64)
        out = slice(*np.searchsorted(hidden[0], [who[0], who[-1] + 1]))
        place = np.full(who[-1] - who[0] + 1, -1)
        place[who - who[0]] = np.arange(len(who))
        row = place[hidden[0][out] - who[0]]
        block[row[row >= 0], hidden[1][out][row >= 0]] = -np.inf
        best = _best(block, depth)
        if np.isnan(best[:, 0]).any():
            raise ValueError("scores hold NaN; a score is a number, -inf for what must not be recommended")
        cells = np.arange(*np.searchsorted(user, [who[0], who[-1] + 1]))
        cells = cells[item[cells] >= 0]
        above[cells], tied[cells] = _standing(block, best, place[user[cells] - who[0]], item[cells])
        for k, listed in lists.items():
            listed.add(block, best[:, : min(k, n)])
    seen = np.bincount(hidden[0], minlength=m)[users]
    return Places(users, np.searchsorted(users, user), gain, above, tied, n - seen)


def _best(block: np.ndarray, depth: int) -> np.ndarray:
    """The best scores of each row, descending; a NaN comes first."""
    if depth < block.shape[1]:
        return torch.topk(torch.from_numpy(block), depth, dim=1).values.numpy()
    return np.sort(block, axis=1)[:, ::-1]


def _standing(block: np.ndarray, best: np.ndarray, row: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many items of its row stand above each cell, and how many are level with it; what is not among the best never shows."""
    mine, last = block[row, item], best[:, -1]
    above = _count(best, row, mine, np.greater)
    tied = _count(best, row, mine, np.greater_equal) - above
    if best.shape[1] < block.shape[1]:
        level = np.count_nonzero(block == last[:, None], axis=1)
        tied = np.where(mine == last[row], level[row], tied)
    out = (mine < last[row]) | np.isneginf(mine)
    return np.where(out, _NEVER, above), np.where(out, 1, tied)


def _count(best: np.ndarray, row: np.ndarray, value: np.ndarray, before: Callable[..., np.ndarray]) -> np.ndarray:
    """How many of a descending row come before the value, for each cell: all bisections at once."""
    low, high = np.zeros(len(row), np.int64), np.full(len(row), best.shape[1])
    for _ in range(best.shape[1].bit_length()):
        middle = (low + high) // 2
        inside = (low < high) & before(best[row, np.minimum(middle, best.shape[1] - 1)], value)
        low, high = np.where(inside, middle + 1, low), np.where(inside, high, middle)
    return low


class Places:
    """Where the relevant items of each user stand, as far as the scores say, and every measure of it.

    ``above`` other items are better, ``tied`` are level with it, itself among them; ``found`` of these are relevant, as are
    ``before`` of those above. It stands on each of the places above + 1 … above + tied equally often.
    """

    def __init__(
        self, users: np.ndarray, user: np.ndarray, gain: np.ndarray, above: np.ndarray, tied: np.ndarray, candidates: np.ndarray
    ):
        order = np.lexsort((above, user))
        self.users, self.candidates, self.size = users, candidates, np.bincount(user)
        self.user, self.gain, self.above, self.tied = user[order], gain[order], above[order], tied[order]
        self.start = np.cumsum(self.size) - self.size
        new = np.append(True, (np.diff(self.user) > 0) | (np.diff(self.above) > 0))
        group, first = np.cumsum(new) - 1, np.flatnonzero(new)
        self.found, self.before = np.bincount(group)[group], first[group] - self.start[self.user]

    def _sum(self, x: np.ndarray) -> np.ndarray:
        return np.bincount(self.user, x)

    def _inside(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """How many of an item's places are among the first k, and how many places come before them."""
        low = np.minimum(self.above, k)
        return np.minimum(k - low, self.tied), low

    def hits(self, k: int) -> np.ndarray:
        return self._sum(self._inside(k)[0] / self.tied)

    def recall(self, k: int) -> np.ndarray:
        return self.hits(k) / self.size

    def capped_recall(self, k: int) -> np.ndarray:
        return self.hits(k) / np.minimum(self.size, k)

    def precision(self, k: int) -> np.ndarray:
        return self.hits(k) / k

    def ndcg(self, k: int) -> np.ndarray:
        discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
        places, low = self._inside(k)
        reached = self._sum(self.gain * (discount[low + places] - discount[low]) / self.tied)
        order = np.lexsort((-self.gain, self.user))
        place = np.minimum(np.arange(len(order)) - self.start[self.user], k)
        best = self._sum(self.gain[order] * np.append(np.diff(discount), 0)[place])
        return reached / best

    def map(self, k: int) -> np.ndarray:
        # Σ_p 1/p (P(p relevant) (1 + hits before the group) + P(p and q relevant) · places q before p in the group)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, k + 1))])
        places, low = self._inside(k)
        inverse = harmonic[low + places] - harmonic[low]
        mates = (self.found - 1) / np.maximum(self.tied - 1, 1)
        mean = ((1 + self.before) * inverse + mates * (places - (low + 1) * inverse)) / self.tied
        return self._sum(mean) / np.minimum(self.size, k)

    def _first_hit(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The probability of a hit among the first k, and the mean of 1 / its place."""
        at = self.start  # the best group of each user is the only one that holds the first hit
        above, tied, found = self.above[at], self.tied[at], self.found[at]
        missing, mean, drawn = np.ones(len(at)), np.zeros(len(at)), 0
        while (going := np.flatnonzero((missing > 0) & (above + drawn < k))).size:
            now = missing[going] * found[going] / (tied[going] - drawn)
            mean[going] += now / (above[going] + drawn + 1)
            missing[going] = np.where(found[going] == tied[going] - drawn, 0, missing[going] - now)
            drawn += 1
        return 1 - missing, mean

    def hit_rate(self, k: int) -> np.ndarray:
        return self._first_hit(k)[0]

    def mrr(self, k: int) -> np.ndarray:
        return self._first_hit(k)[1]

    def auc(self, _: int) -> np.ndarray:
        known = self._sum(self.above < _NEVER)
        others = self.candidates - known
        worse = np.minimum(self.above - self.before, others[self.user]) + np.where(
            self.above < _NEVER, (self.tied - self.found) / 2, 0
        )
        with np.errstate(invalid="ignore"):
            return np.where(others > 0, 1 - self._sum(worse) / (self.size * others), 0.5)


class _Lists:
    """Which items the first k places show: how often, how surely not at all, and how little known they are."""

    def __init__(self, n: int, share: np.ndarray | None):
        self.shown, self.never = np.zeros(n), np.ones(n)
        self.surprise = None if share is None else -np.log2(np.asarray(share, np.float64))
        self.novelties: list[np.ndarray] = []

    def add(self, block: np.ndarray, best: np.ndarray) -> None:
        last = best[:, -1:]
        above, level = block > last, block == last
        places = best.shape[1] - np.count_nonzero(above, axis=1)
        odds = np.where(np.isneginf(last[:, 0]), 0, places / np.count_nonzero(level, axis=1))
        chance = np.where(level, odds[:, None].astype(np.float32), above)
        self.shown += chance.sum(0, dtype=np.float64)
        self.never *= np.prod(1 - chance, axis=0)
        if self.surprise is not None:
            self.novelties.append(chance @ self.surprise.astype(np.float32) / np.maximum(chance.sum(1), 1e-30))

    def novelty(self) -> np.ndarray:
        return np.concatenate(self.novelties)

    def coverage(self) -> float:
        return float(1 - self.never.mean())

    def gini(self) -> float:
        n, total = len(self.shown), self.shown.sum()
        return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(self.shown) / (n * total)) if total else 0.0


# ── a model and a test set ────────────────────────────────────────────────────────────────────────────────────────────


def evaluate(
    model: Any,
    test: Any,
    train: Any = None,
    k: int | Iterable[int] = 10,
    measures: str | Iterable[str] | None = None,
    *,
    exclude_seen: bool = True,
    relevant: float | None = None,
    gains: str = "binary",
    level: float = 0.9,
) -> Evaluation:
    """How good a fitted recommender is on ratings that it has not seen.

    Everything that ``rating_measures`` and ``ranking_measures`` know, by name, or the usual ones: of a model of ratings
    rmse and mae, with a standard deviation also its intervals; of one of clicks the rankings, which a threshold
    ``relevant`` asks for too. Rankings are over all items of the model.

    Args:
        model: a fitted recommender, or the ``serve.Model`` that one has saved.
        test: any table that ``read_ratings`` takes; its columns may be called as in the fit. The weights count in rmse and mae.
        train: what the model has seen, if that is not what it was fitted on: not recommended, and the basis of activity
            (ratings of a user) and novelty.
        k: the length of the lists, or several.
        measures: names, with the length if it is another: ``["rmse", "ndcg@20"]``.
        exclude_seen: whether items that the user has seen are left out of the lists. Cells of the test set that were seen
            are then left out too.
        relevant: the least rating that makes an item relevant; None: those above 0.
        gains: of a relevant item in ndcg: "binary", 1; "rating", its rating; "exponential", 2^rating - 1.
        level: of the intervals.

    A user without training data is scored by the fallback, as the model would answer; an item that the model does not know
    is a miss in rankings and has the fallback's rating; ``notes`` says how many. Raises ValueError where the test set is
    empty or nothing in it is relevant, TypeError where the model is not fitted.

    >>> from proxfactor.ratings import Popularity
    >>> model = Popularity().fit((["a", "a", "b", "c"], [1, 2, 1, 3]))
    >>> evaluate(model, (["b", "c"], [2, 1]), k=1, measures=["recall", "mrr"])  # items 2 and 3 are equally popular
    recall@1     0.7500 ± 0.2500
    mrr@1        0.7500 ± 0.2500
    2 users, 2 cells
    """
    answers = getattr(model, "model_", model)
    if not hasattr(answers, "recommend") or not hasattr(answers, "users"):
        raise TypeError(f"evaluate was given {type(model).__name__}, which is not fitted; call fit first")
    ratings, known = _read(test, model, answers), None if train is None else _read(train, model, answers)
    if not len(ratings):
        raise ValueError("the test set is empty: there is nothing to measure")
    named = [measures] if isinstance(measures, str) else None if measures is None else list(measures)
    implicit = _implicit(model, answers)
    if named is None:
        intervals = INTERVAL if answers.noise is not None else ()
        named = [*(() if implicit else RATING + intervals), *(USUAL if implicit or relevant is not None else ())]
    of_ratings = [name for name in named if name.partition("@")[0] in RATING + INTERVAL]
    of_rankings = [name for name in named if name not in of_ratings]

    present, who = np.unique(ratings.user, return_inverse=True)
    users = codes_of(ratings.users[present], answers.users, "user", "fallback")
    items = codes_of(ratings.items, answers.items, "item", "fallback")[ratings.item]
    history, parts = _history(answers, known), []
    cold = int((users < 0).sum() + (np.diff(answers.indptr)[users[users >= 0]] == 0).sum())
    if of_ratings:
        wants_std = any(name.partition("@")[0] in INTERVAL for name in of_ratings)
        asked = ratings.users[ratings.user], ratings.items[ratings.item]
        found = answers.predict(*asked, return_std=wants_std, unknown="fallback")
        mean, std = found if wants_std else (found, None)
        active = np.where(users >= 0, np.bincount(history[0], minlength=len(answers.users) + 1)[users], 0)[who]
        parts.append(
            rating_measures(ratings.value, mean, std, ratings.weight, user=who, activity=active, measures=of_ratings, level=level)
        )
    if of_rankings:
        liked = ratings.value > 0 if relevant is None else ratings.value >= relevant
        if not liked.any():
            raise ValueError(
                f"nothing is relevant: no rating of the test set is {'above 0' if relevant is None else f'at least {relevant:g}'}, "
                f"the highest is {ratings.value.max():g}"
            )
        cells = who[liked], items[liked], _gains(gains, ratings.value[liked])
        place = np.full(len(answers.users), -1)
        place[users[users >= 0]] = np.flatnonzero(users >= 0)
        seen = place[history[0]], history[1]
        share = np.maximum(np.bincount(history[1], minlength=len(answers.items)), 1) / max(
            1, np.count_nonzero(np.bincount(history[0]))
        )
        parts.append(
            ranking_measures(
                lambda rows: answers.scores(users[rows]),
                cells,
                tuple(v[seen[0] >= 0] for v in seen) if exclude_seen else None,
                n=len(answers.items),
                k=k,
                measures=of_rankings,
                users=len(users),
                share=share,
            )
        )
    return Evaluation(
        {name: value for part in parts for name, value in part.items()},
        {name: value for part in parts for name, value in part.by_user.items()},
        {name: value for part in parts for name, value in part.influence.items()},
        ratings.users[present],
        len(ratings),
        (*(note for part in parts for note in part.notes), *_notes(cold, int((items < 0).sum()))),
        lambda columns: ratings.frame({ratings.columns["user"]: columns.pop("user"), **columns}),
    )


def _read(data: Any, model: Any, answers: Any) -> Ratings:
    """The table, whose columns may be called as in the fit."""
    if isinstance(data, Ratings):
        return data
    first = data[0] if isinstance(data, tuple) and data else data
    if hasattr(first, "__len__") and not hasattr(first, "nnz") and not len(first):
        raise ValueError("the test set is empty: there is nothing to measure")
    source = source_of(data)
    there = [] if isinstance(data, tuple) else getattr(source, "names", [])
    called = answers.info.get("columns", {})
    named = {role: called[role] for role in ("user", "item", "rating") if called.get(role) in there}
    return cells_of(source, named, getattr(model, "duplicates", "error"))


def _implicit(model: Any, answers: Any) -> bool:
    return bool(getattr(model, "implicit", answers.info.get("implicit", False)))


def _history(answers: Any, train: Ratings | None) -> tuple[np.ndarray, np.ndarray]:
    """The seen cells as positions of the model's users and items."""
    if train is not None:
        train = train.coded(answers.users, answers.items, unknown="drop")
        return train.user, train.item
    return np.repeat(np.arange(len(answers.users)), np.diff(answers.indptr)), answers.indices


def _gains(kind: str, rating: np.ndarray) -> np.ndarray:
    if kind not in ("binary", "rating", "exponential"):
        raise ValueError(f"gains is {kind!r}; give 'binary', 'rating' or 'exponential'")
    return np.ones(len(rating)) if kind == "binary" else rating if kind == "rating" else np.exp2(rating) - 1


def _notes(cold: int, lacking: int) -> Iterator[str]:
    if cold:
        yield f"users without training data, whom the fallback answers: {cold:,}"
    if lacking:
        yield f"cells of items that the model does not know, misses in rankings: {lacking:,}"
