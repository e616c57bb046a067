"""The tables and pictures of what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from cases import CASES
from jobs import Results
from measure import Job
from rich.console import Console
from rich.table import Table
from rows import DTYPES, Row, View
from systems import SYSTEMS

WITHIN = (1e-2, 1e-3, 1e-4)


def write(out: Path, results: Results, rows: Sequence[Row], console: Console) -> None:
    """Print the claims and a table for each case, write them to report.txt, and draw a picture for each case."""
    view, text = View(results), StringIO()
    for each in (console, Console(file=text, width=console.width)):
        each.print(claims(view, rows))
        for name, loss, dtype, threads in groups(results):
            each.print(systems(view, results, name, loss, dtype, threads))
        for line in notes(out, results):
            each.print(line, soft_wrap=True)
    (out / "report.txt").write_text(text.getvalue())
    plots(out, view)


def claims(view: View, rows: Sequence[Row]) -> Table:
    table = Table(title="Claims, each with one thread unless it says otherwise", title_justify="left")
    for column in ("claim", "bar", "", "measured", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        heads = [row.claim, f"  --row {row.name}"]
        for at, (what, words, good) in enumerate(judged := row.judge(view)):
            head = heads[at] if at < len(heads) else ""
            verdict = {True: "yes", False: "NO", None: ""}[good]
            table.add_row(head, row.bar if at == 0 else "", what, words, verdict)
        for head in heads[len(judged) :]:
            table.add_row(head)
        table.add_section()
    return table


def groups(results: Results) -> list[tuple[str, str, str, int]]:
    """(case, loss, dtype, threads) of all traces, in the order of the cases."""
    jobs = [Job(**f["job"]) for f in results.values()]
    has = {(j.case, j.loss, j.dtype, j.threads) for j in jobs if j.kind == "trace"}
    return sorted(has, key=lambda g: (list(CASES).index(g[0]), *g[1:]))


def systems(view: View, results: Results, case: str, loss: str, dtype: str, threads: int) -> Table:
    """Iterations / passes / seconds to within each share of the best, per system and start; what an iteration costs."""
    clock = "cpu" if threads == 1 else "wall"
    title = f"{case} ({CASES[case].about}), {loss}, {dtype}, {threads} thread(s): iterations / passes / {clock} seconds to within"
    table = Table(title=title, title_justify="left")
    for column in ("system", "start", *(f"{100 * w:g} %" for w in WITHIN), "end / best - 1", "limit", "ms", "x floor"):
        table.add_column(column, justify="left" if column in ("system", "start") else "right")
    jobs = [Job(**f["job"]) for f in results.values() if f["job"]["kind"] == "trace"]
    names = [s.name for s in SYSTEMS]
    jobs = [j for j in jobs if (j.case, j.loss, j.dtype, j.threads) == (case, loss, dtype, threads)]
    for job in sorted(jobs, key=lambda j: (names.index(j.system) if j.system in names else -1, j.system, str(j.start))):
        if job.key in view.errors:
            table.add_row(job.system, str(job.start), f"[red]{view.errors[job.key][:40]}[/red]")
            continue
        found, cost = view.get(job), view.get(Job("sweep", case, loss, job.system, dtype, threads))
        reached = [view.reach(job, w) for w in WITHIN]
        counts = [(r, "–" if r.passes is None else f"{r.passes:g}") for r in reached]
        cells = ["never" if r.never else f"{r.iterations} / {passes} / {r.seconds:.3g}" for r, passes in counts]
        over = min(row[4] for row in found["rows"]) / view.best(job) - 1
        each = cost[clock] if cost else found[clock] / max(1, found["iterations"])
        ratio = f"{cost['ratio']:.2f}" if cost else ""
        table.add_row(job.system, str(job.start), *cells, f"{over:.1e}", f"{found['job']['limit']:g} s", f"{1e3 * each:.3g}", ratio)
    return table


def notes(out: Path, results: Results) -> list[str]:
    """Machine and versions, and who could not be installed."""
    lines = ['"never" counts as the time limit. The best is what anybody found from the same start, all own starts taken as one.']
    seen = {}
    for found in results.values():
        seen.setdefault((found["machine"], json.dumps(found["versions"])), []).append(found["when"])
    for (machine, versions), when in seen.items():
        known = ", ".join(f"{name} {version}" for name, version in json.loads(versions).items())
        lines.append(f"{len(when)} measurements on {machine}, {min(when)} to {max(when)}: {known}")
    ours = {f["versions"].get("proxfactor") for f in results.values() if f["job"]["system"].startswith("proxfactor")}
    if len(ours) > 1:
        lines.append(f"Ours are of {len(ours)} revisions: run with --fresh --system proxfactor before you compare.")
    if (out / "peers.json").exists():
        lines += [f"{peer} could not be installed: {word}" for peer, word in json.loads((out / "peers.json").read_text()).items()]
    return lines


def plots(out: Path, view: View) -> None:
    """Value over the best against seconds, from the first start, one picture for each case and loss, a panel for each dtype."""
    from matplotlib.figure import Figure

    colours = {s.name: f"C{i % 10}" for i, s in enumerate(SYSTEMS)}
    names = {(f["job"]["case"], f["job"]["loss"]) for f in view.results.values() if f["job"]["kind"] == "trace"}
    for case, loss in names:
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        for axes, dtype in zip(figure.subplots(1, 2, sharex=True, sharey=True), DTYPES, strict=True):
            for s in SYSTEMS:
                job = Job("trace", case, loss, s.name, dtype, 1, 0)
                if (found := view.get(job)) is None:
                    continue
                rows = [r for r in found["rows"] if r[1] > 0]
                above = [max(r[4] / view.best(job) - 1, 1e-7) for r in rows]
                dashes = "--" if SYSTEMS.index(s) >= 10 else "-"
                axes.loglog([r[1] for r in rows], above, dashes, color=colours[s.name], label=s.name)
            axes.set(title=f"{case}, {loss}, {dtype}, one thread", xlabel="CPU seconds", ylim=(1e-7, 10))
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=7)
        figure.axes[0].set_ylabel("value / best found from this start - 1")
        figure.savefig(out / f"{case}-{loss}.png", dpi=110)
