"""Times mtlrun beside PyTorch eager mode on the same step, alternately, and prints a table with ratios.

    python tests/bench/run.py --python PYTHON_WITH_TORCH [--task synthesis] [--rounds 2] [--precision float32 bf16]

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

# For each task: our recipe and its streams of pictures, the script of the same step, its batch, its variants, and the
# modules besides the encoder that can compute in bf16.
TASKS = {
    "recognition": ("ir50_112.toml", ["faces"], "eager.py", 16, {"eager, channels_last": ["--channels-last"]}, []),
    "synthesis": (
        "fas_ir50_112.toml",
        ["faces", "targets"],
        "eager_synthesis.py",
        4,
        {"eager, only what is used": ["--frozen"], "the same, channels_last": ["--frozen", "--channels-last"]},
        ["icm", "decoder", "critic"],
    ),
}


def ours(a, faces, precision, *more):
    """Seconds a step (median), from start to the first step done, peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        recipe, streams, *_ = TASKS[a.task]
        args = [ROOT / "target/release/mtlrun", ROOT / "recipes/bench" / recipe, "--out", out]
        args += ["--threads", str(a.threads)]
        args += ["--set", f"run.precision={precision}", "--set", f"run.steps={a.steps + 2}"]
        for stream in streams:
            args += ["--set", f"data.{stream}.list={faces}/list.txt", "--set", f"data.{stream}.batch_size={a.batch}"]
        args += more
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
    args = [a.python, ROOT / "tests/bench" / TASKS[a.task][2], "--threads", a.threads, "--steps", a.steps, "--batch", a.batch]
    args += ["--bf16"] * (precision == "bf16") + list(more)
    out = subprocess.run(list(map(str, args)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--python", required=True)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--task", choices=TASKS, default="recognition")
    p.add_argument("--batch", type=int)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    a = p.parse_args()
    a.batch = a.batch or TASKS[a.task][3]
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([a.python, ROOT / "tests/bench/make_faces.py", faces], check=True)
        print("| precision | program | s a step | first step after, s | peak MB | times plain eager |")
        print("|---|---|---|---|---|---|")
        for precision in a.precision:
            # Only convolutions in float32 can be Winograd's.
            own = {
                "mtlrun, direct convolutions": ["--set", "run.winograd=false"],
                "mtlrun, Winograd's convolutions": ["--set", "run.winograd=true"],
            }
            if precision == "bf16":
                own, modules = {"mtlrun": []}, TASKS[a.task][5]
                if modules:
                    amp = [word for m in modules for word in ("--set", f"model.{m}.precision=amp")]
                    own[f"mtlrun, bf16 in {', '.join(modules)} too"] = amp
            names = ["plain eager", *TASKS[a.task][4], *own]
            rows = {name: [] for name in names}
            for _ in range(a.rounds):
                rows["plain eager"].append(eager(a, precision))
                for name, more in TASKS[a.task][4].items():
                    rows[name].append(eager(a, precision, *more))
                for name, more in own.items():
                    rows[name].append(ours(a, faces, precision, *more))
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
