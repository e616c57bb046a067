"""Running jobs, each in a process of its own with a time limit, and keeping what came out, a line of JSON for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from measure import Job, machine
from systems import SYSTEMS, system

FOLDER = Path(__file__).parent
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE")  # every library picks its own kernels
Results = dict[tuple, dict[str, Any]]


def load(out: Path) -> Results:
    """The latest result of each job, by its key."""
    path = out / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {Job(**f["job"]).key: f for f in found}


def run(out: Path, jobs: Iterable[Job], say: Any, fresh: bool = False) -> Results:
    """Run what is missing, or was measured with a lower limit; ``fresh`` runs all of it again."""
    out.mkdir(parents=True, exist_ok=True)
    results, jobs = load(out), list(dict.fromkeys(jobs))
    missing = {s.name for j in jobs if j.system and not (s := system(j.system)).there}
    for name in sorted(missing):
        say(f"{name} is not installed here: left out")
    todo = [j for j in jobs if j.system not in missing]
    todo = [j for j in todo if fresh or j.key not in results or results[j.key]["job"]["limit"] < j.limit]
    for at, job in enumerate(todo):
        found = one(job)
        with (out / "results.jsonl").open("a") as lines:
            lines.write(json.dumps(found) + "\n")
        results[job.key] = found
        say(f"[{at + 1}/{len(todo)}] {job}: {brief(found)}")
    return results


def one(job: Job) -> dict[str, Any]:
    """The result of one job, an error included."""
    count = str(job.threads)
    env = {name: value for name, value in os.environ.items() if name not in UNSET}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), count)
    found: dict[str, Any] = {"job": asdict(job), "machine": machine(), "versions": versions()}
    found["when"] = time.strftime("%Y-%m-%d %H:%M")
    most = 300 + 20 * job.limit  # wall: the limit may be CPU time, and what was seen is judged after it
    with tempfile.TemporaryDirectory() as empty:
        if job.kind == "cold":
            env["NUMBA_CACHE_DIR"] = empty
        command = [sys.executable, str(FOLDER), "one", json.dumps(asdict(job))]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=most)
        except subprocess.TimeoutExpired:
            return found | {"error": f"killed after {most:g} s"}
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        return found | {"error": f"exit status {done.returncode}: {words[-1][:300]}"}
    return found | json.loads(done.stdout.splitlines()[-1])


@cache
def versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    known = {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "scipy", "numba")}
    known |= {s.package: s.version for s in SYSTEMS if s.there}
    try:
        how = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty"]
        known["proxfactor"] += " " + subprocess.run(how, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # not a checkout
    return known


def brief(found: dict[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    if "rows" in found:
        last = found["rows"][-1]
        return f"{found['iterations']} iterations, {found['cpu']:.2f} s CPU, value {last[4]:.6g}"
    if "ratio" in found:
        return f"{1e3 * found['cpu']:.3g} ms, {found['ratio']:.2f} of the floor"
    if "times" in found:
        return f"{found['times']:.2f} times X"
    return json.dumps({k: v for k, v in found.items() if k not in ("job", "when", "machine", "versions")})


def install(out: Path, peers: Iterable[str], say: Any) -> None:
    """Install each peer into this interpreter's environment; what cannot be installed is kept, with pip's last word."""
    failed = {}
    constraints = FOLDER.parents[1] / "constraints.txt"
    for peer in peers:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints), peer]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            failed[peer] = (done.stderr.strip().splitlines() or ["no word"])[-1]
        say(f"{peer}: {failed.get(peer, 'installed')}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.json").write_text(json.dumps(failed, indent=1))
