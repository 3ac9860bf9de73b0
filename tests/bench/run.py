"""Times mtlrun beside PyTorch eager mode on the same step, alternately, and prints a table with ratios.

    python tests/bench/run.py --python PYTHON_WITH_TORCH [--rounds 2] [--precision float32 bf16]

Build with `cargo build --release` first. Needs torch 2.11.0, numpy and Pillow in PYTHON_WITH_TORCH. Nothing else
should run on the machine meanwhile.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def ours(a, faces, precision, *more):
    """Seconds a step (median), from start to the first step done, peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        args = [ROOT / "target/release/mtlrun", ROOT / "recipes/bench/ir50_112.toml", "--out", out]
        args += ["--threads", str(a.threads), "--set", f"data.faces.list={faces}/list.txt"]
        args += ["--set", f"run.precision={precision}", "--set", f"run.steps={a.steps + 2}"]
        args += ["--set", f"data.faces.batch_size={a.batch}", *more]
        start, first = time.time(), None
        process = subprocess.Popen(list(map(str, args)), stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if first is None and line.startswith("step 1/"):
                first = time.time() - start
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("mtlrun failed")
        lines = [json.loads(l) for l in (out / "metrics.jsonl").read_text().splitlines()]
        times = [l["time/seconds_per_step"] for l in lines if l["kind"] == "time"]
        return {"seconds": statistics.median(times[2:]), "first": first, "peak_mb": usage.ru_maxrss / 1024}


def eager(a, precision, *more):
    args = [a.python, ROOT / "tests/bench/eager.py", "--threads", a.threads, "--steps", a.steps, "--batch", a.batch]
    args += ["--bf16"] * (precision == "bf16") + list(more)
    out = subprocess.run(list(map(str, args)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--python", required=True)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([a.python, ROOT / "tests/bench/make_faces.py", faces], check=True)
        print("| precision | program | s a step | first step after, s | peak MB | times plain eager |")
        print("|---|---|---|---|---|---|")
        for precision in a.precision:
            rows = {"plain eager": [], "eager, channels_last": [], "mtlrun, direct convolutions": [], "mtlrun": []}
            for _ in range(a.rounds):
                rows["plain eager"].append(eager(a, precision))
                rows["eager, channels_last"].append(eager(a, precision, "--channels-last"))
                direct = ours(a, faces, precision, "--set", "run.winograd=false")
                rows["mtlrun, direct convolutions"].append(direct)
                rows["mtlrun"].append(ours(a, faces, precision))
            base = min(r["seconds"] for r in rows["plain eager"])
            for name, found in rows.items():
                best = {k: min(r[k] for r in found) for k in found[0]}
                print(
                    f"| {precision} | {name} | {best['seconds']:.2f} | {best['first']:.1f} | {best['peak_mb']:.0f} "
                    f"| {base / best['seconds']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
