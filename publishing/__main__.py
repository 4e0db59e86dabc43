"""``python -m publishing``: the pages, the wheel and the notebooks in ``_build/publish``."""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .grammar import ROOT
from .labels import of_the_book, pages, source_of
from .notebooks import Origin, write

OUT = ROOT / "_build" / "publish"


def git(*command: str) -> str:
    """What git prints, stripped."""
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def address(given: str) -> str:
    """The repository's address: as given, or from GitHub's environment; empty if there is none."""
    if not given and (name := os.environ.get("GITHUB_REPOSITORY")):
        given = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    if given and not re.fullmatch(r"(https?|file)://[^\s\"'@]+", given):
        sys.exit(f"expected REPOSITORY=https://HOST/OWNER/NAME, got {given!r}")
    return given.rstrip("/").removesuffix(".git") if given.startswith("http") else given


def origin(repository: str, ref: str, site: str, allow_dirty: bool) -> Origin:
    """Where the notebooks come from; refuses what could not be built again from that commit."""
    commit, head = (
        git("rev-parse", "--verify", f"{ref or 'HEAD'}^{{commit}}"),
        git("rev-parse", "HEAD"),
    )
    if commit != head:
        sys.exit(f"{ref} is {commit[:12]} and {head[:12]} is checked out: check out {ref} first")
    changed = git("status", "--porcelain")
    if changed and not allow_dirty:
        sys.exit(
            f"the working tree has changes that {head[:12]} lacks:\n{changed}\nCommit them, or add "
            "DIRTY=1 for notebooks that say so."
        )
    return Origin(repository, commit, site, dirty=bool(changed))


def build_pages(source: Origin | None) -> None:
    """Build the HTML into ``_build/publish/html``."""
    work = OUT / "work"
    env = dict(os.environ)
    env.pop("BOOK_REPOSITORY_URL", None)
    if source:
        env["BOOK_REPOSITORY_URL"] = source.repository
    program = "from jupyter_book.cli.main import main; main()"  # as its own script has it
    command = [sys.executable, "-c", program, "build", "book"]
    options = [
        "--config",
        "_config.yml",
        "--toc",
        str(ROOT / "_toc.yml"),
        "--path-output",
        str(work),
    ]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    checks = ["--all", "-W", "-n", "--keep-going"]  # pages of another address are not up to date
    shutil.rmtree(work / "_build" / "html", ignore_errors=True)
    subprocess.run([*command, *options, *checks], cwd=ROOT, env=env, check=True)
    shutil.rmtree(OUT / "html", ignore_errors=True)
    shutil.copytree(work / "_build" / "html", OUT / "html")


def executions() -> Path:
    """Where the build of the book keeps what it has executed."""
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    key: str = importlib.import_module("function_space_book").library_key()
    return ROOT / "_build" / "cache" / key


def build_wheel() -> None:
    """Build the wheel of the commit that is checked out, from an export: nothing stale gets in."""
    shutil.rmtree(OUT / "wheel", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "source.tar"
        git("archive", "--output", str(archive), "HEAD")
        shutil.unpack_archive(archive, folder, filter="data")
        options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(OUT / "wheel")]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder], check=True)


def main(argv: list[str] | None = None) -> None:
    """Publish."""
    parser = argparse.ArgumentParser(prog="make publish", description=__doc__)
    parser.add_argument("--repository", default="", help="the address; default GITHUB_REPOSITORY")
    parser.add_argument("--ref", default="", help="a commit, which must be checked out")
    parser.add_argument("--site", default="", help="the address of the published pages, if known")
    parser.add_argument("--dirty", action="store_true", help="publish a changed tree, and say so")
    options = parser.parse_args(argv)
    repository = address(options.repository)
    source = origin(repository, options.ref, options.site, options.dirty) if repository else None
    build_pages(source)
    build_wheel()
    shutil.rmtree(OUT / "colab", ignore_errors=True)
    if source is None:
        print("No repository was named: pages without launch buttons, and no Colab notebooks.")
    else:
        names = [page for page in pages() if source_of(page).suffix == ".ipynb"]
        seconds = json.loads((ROOT / "_build" / "seconds.json").read_text(encoding="utf-8"))
        print(f"Notebooks that install {source.repository} at {source.commit[:12]}:")
        write(OUT / "colab", names, of_the_book(), source, executions(), seconds)
    print(f"Published: {OUT}")


if __name__ == "__main__":
    main()
