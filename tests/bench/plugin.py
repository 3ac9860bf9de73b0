"""Times a component from a plugin beside the same one that is linked in, and how long plugins take to load and build.

    cargo build --release
    python tests/bench/plugin.py

The published attention decomposition is built as a plugin, under another name. Runs of either form alternate; a ratio of
medians is printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/mtlrun"
SOURCE = ROOT / "plugins/recognition/src/decompositions/attention_decomposition.rs"
SMALL = ["--set", "data.faces.identities=16", "--set", "data.faces.batch_size=16", "--unset", "evaluate",
         "--unset", "run.checkpoint.best", "--set", "run.log_every=1", "--set", "run.checkpoint.every=0", "--quiet"]


def run(*words, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done


def step(folder, name, plugin, steps, threads):
    """Seconds a step, the median over a run without its first steps."""
    out = folder / "run"
    run(PROGRAM, ROOT / "recipes/quickstart.toml", "--plugin", plugin, *SMALL, "--set", f"run.steps={steps}",
        "--set", f"run.threads={threads}", "--set", f"model.decompose.component={name}", "--out", out, "--overwrite")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["time/seconds_per_step"] for line in lines if "time/seconds_per_step" in line]
    return statistics.median(seconds[5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of either form")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(PROGRAM, "plugin", "new", "attention", "--kind", "decomposition", "--folder", folder)
        crate = folder / "attention"
        text = SOURCE.read_text().split("#[cfg(test)]")[0].replace('"attention_decomposition"', '"attention_plugin"')
        (crate / "src/decomposition.rs").write_text(text)
        start = time.monotonic()
        run(PROGRAM, "plugin", "build", crate)
        print(f"first build of the plugin: {time.monotonic() - start:.1f} s")
        edits = []
        for edit in range(3):
            (crate / "src/decomposition.rs").write_text(f"{text}// {edit}\n")
            start = time.monotonic()
            run(PROGRAM, "plugin", "build", crate)
            edits.append(time.monotonic() - start)
        print(f"from an edit to a checked plugin: {statistics.median(edits):.1f} s")
        plugin = crate / "libattention.so"
        print(f"the file: {plugin.stat().st_size / 1e6:.1f} MB")

        cache = folder / "cache"
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        times = {"without": [], "first": [], "known": []}
        for _ in range(args.runs):
            subprocess.run(["rm", "-rf", cache], check=True)
            for key, words in [("without", []), ("first", ["--plugin", plugin]), ("known", ["--plugin", plugin])]:
                start = time.monotonic()
                run(PROGRAM, "list", *words, env=environment)
                times[key].append(time.monotonic() - start)
        without, first, known = (statistics.median(times[key]) for key in ["without", "first", "known"])
        print(f"loading: {1000 * (known - without):.0f} ms for a known file, {1000 * (first - without):.0f} ms at first sight")

        seconds = {"attention_decomposition": [], "attention_plugin": []}
        for turn in range(args.runs):
            order = list(seconds) if turn % 2 == 0 else list(seconds)[::-1]
            for component in order:
                seconds[component].append(step(folder, component, plugin, args.steps, args.threads))
        linked, loaded = (statistics.median(seconds[name]) for name in seconds)
        print(f"a step: {1000 * linked:.2f} ms linked in, {1000 * loaded:.2f} ms from the plugin: {loaded / linked:.4f}")


if __name__ == "__main__":
    main()
