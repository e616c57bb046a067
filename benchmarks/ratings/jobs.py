"""Running jobs, each in a process of its own, and keeping what came out, a line of JSON for each."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measure import Job
from systems import LISTS, PEERS, RANKING, RATING, SWEEPS

FOLDER = Path(__file__).parent
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_DEBUG_CPU_TYPE")  # every library picks its own kernels
LIMIT = 3600  # seconds of a measurement
Results = dict[tuple, dict[str, Any]]


def load(out: Path) -> Results:
    """The latest result of each job, by its key."""
    path = out / "results.jsonl"
    found = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {Job(**f["job"]).key: f for f in found}


def run(out: Path, jobs: Iterable[Job], say: Any, fresh: bool = False) -> None:
    """Run what is missing or has failed; ``fresh`` runs all of it again."""
    out.mkdir(parents=True, exist_ok=True)
    results, jobs = load(out), list(dict.fromkeys(jobs))
    missing = {s.name for s in (*RATING, *RANKING, *SWEEPS, *LISTS) if not s.there}
    for name in sorted(missing & {job.system for job in jobs}):
        say(f"{name} is not installed here: left out")
    if "BENCH_RATINGS" not in os.environ and any(job.data == "ml-100k" for job in jobs):
        say("MovieLens 100K is left out: give its file with --ratings u.data")
        jobs = [job for job in jobs if job.data != "ml-100k"]
    todo = [job for job in jobs if job.system not in missing and (fresh or "error" in results.get(job.key, {"error": ""}))]
    for at, job in enumerate(todo):
        found = one(job)
        with (out / "results.jsonl").open("a") as lines:
            lines.write(json.dumps(found) + "\n")
        say(f"[{at + 1}/{len(todo)}] {job}: {brief(found)}")


def one(job: Job) -> dict[str, Any]:
    """The result of one job, an error included. OpenBLAS has one thread for everybody: implicit and ours thread over rows."""
    env = {name: value for name, value in os.environ.items() if name not in UNSET}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(job.threads))
    env["OPENBLAS_NUM_THREADS"] = "1"
    found = {"job": asdict(job), "machine": machine(), "versions": versions(), "when": time.strftime("%Y-%m-%d %H:%M")}
    command = [sys.executable, str(FOLDER), "one", json.dumps(asdict(job))]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return found | {"error": f"killed after {LIMIT} s"}
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        return found | {"error": f"exit status {done.returncode}: {words[-1][:300]}"}
    return found | json.loads(done.stdout.splitlines()[-1])


@cache
def machine() -> str:
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


@cache
def versions() -> dict[str, str]:
    known = {"python": platform.python_version()}
    packages = {s.package for s in (*RATING, *RANKING, *SWEEPS)} | {"torch", "numpy", "scipy", "numba"}
    for name in sorted(packages):
        with suppress(PackageNotFoundError):
            known[name] = version(name)
    how = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):  # it may be no checkout
        known["commit"] = subprocess.run(how, capture_output=True, text=True, check=True).stdout.strip()
    return known


def brief(found: dict[str, Any]) -> str:
    left_out = ("job", "when", "machine", "versions")
    return found.get("error") or json.dumps({k: v for k, v in found.items() if k not in left_out})[:400]


def install(say: Any) -> None:
    """Install each peer into this interpreter's environment, or say pip's last word."""
    constraints = FOLDER.parents[1] / "constraints.txt"
    for peer in PEERS:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints), peer]
        done = subprocess.run(pip, capture_output=True, text=True)
        say(f"{peer}: {'installed' if not done.returncode else (done.stderr.strip().splitlines() or ['no word'])[-1]}")
