"""Times mtlrun beside PyTorch on a GPU, on the same step, and prints a table: pictures a second and memory of the card.

    python tests/bench/cuda.py --mtlrun PROGRAM [--batch 128] [--seconds 480] [--only synthesis bf16]

Run by a Python with torch 2.11.0, numpy and Pillow, whose torch/lib folder has to be on LD_LIBRARY_PATH for mtlrun. Rows
are left out when the given time has passed.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
IR50, IR101 = [3, 4, 14, 3], [3, 13, 30, 3]
START = time.time()


class Card:
    """The most memory of the card that was in use while something ran, in MiB."""

    def __enter__(self):
        self.most, self.runs = 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while self.runs:
            self.most = max(self.most, int(subprocess.run(query, stdout=subprocess.PIPE, text=True).stdout.split()[0]))
            time.sleep(0.5)

    def __exit__(self, *_):
        self.runs = False
        self.thread.join()


def ours(a, faces, recipe, streams, batch, sets):
    with tempfile.TemporaryDirectory() as folder, Card() as card:
        out = pathlib.Path(folder) / "run"
        args = [a.mtlrun, ROOT / "recipes/bench" / recipe, "--out", out, "--device", "cuda", "-q"]
        sets = [f"run.steps={a.steps}", "run.log_every=10", *sets]
        for stream in streams:
            sets += [f"data.{stream}.list={faces}/list.txt", f"data.{stream}.batch_size={batch}"]
            sets += [f"data.{stream}.workers={a.workers}", f"data.{stream}.prefetch=16"]
        for value in sets:
            args += ["--set", value]
        start = time.time()
        done = subprocess.run(list(map(str, args)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            return f"failed: {done.stdout[-300:]!r}"
        whole = time.time() - start
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        times = [line["time/seconds_per_step"] for line in lines if line["kind"] == "time"]
        return statistics.median(times[2:]), whole, card.most


def eager(a, script, batch, more):
    args = [sys.executable, ROOT / "tests/bench" / script, "--device", "cuda", "--steps", a.steps // 2, "--batch", batch]
    args += more
    start = time.time()
    with Card() as card:
        done = subprocess.run(list(map(str, args)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        return f"failed: {done.stdout[-300:]!r}"
    return json.loads(done.stdout.splitlines()[-1])["seconds"], time.time() - start, card.most


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--mtlrun", required=True)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--workers", type=int, default=12)
    p.add_argument("--seconds", type=float, default=480)
    p.add_argument("--only", nargs="*", default=[], help="only rows whose first three columns hold all of these words")
    a = p.parse_args()
    depths = lambda units: f"model.backbone.depths={list(units)}"
    recognition = lambda *sets: lambda f: ours(a, f, "ir50_112.toml", ["faces"], a.batch, sets)
    synthesis = lambda *sets: lambda f: ours(a, f, "fas_ir50_112.toml", ["faces", "targets"], 12, sets)
    torch = lambda *more: lambda _: eager(a, "eager.py", a.batch, ["--channels-last", *more])
    torch_synthesis = lambda *more: lambda _: eager(a, "eager_synthesis.py", 12, ["--channels-last", *more])
    deep, graphs, small = ["--units", *IR101], "run.cuda_graphs=true", 16
    few = lambda *sets: lambda f: ours(a, f, "ir50_112.toml", ["faces"], small, sets)
    torch_few = lambda *more: lambda _: eager(a, "eager.py", small, ["--channels-last", *more])
    rows = [
        ("ir50", "bf16", "mtlrun", recognition("run.precision=bf16")),
        ("ir50", "bf16", "mtlrun, graphs", recognition("run.precision=bf16", graphs)),
        ("ir50", "bf16", "eager", torch("--bf16")),
        ("ir50, batch 16", "bf16", "mtlrun", few("run.precision=bf16")),
        ("ir50, batch 16", "bf16", "mtlrun, graphs", few("run.precision=bf16", graphs)),
        ("ir50, batch 16", "bf16", "eager", torch_few("--bf16")),
        ("synthesis, batch 12", "TF32", "mtlrun", synthesis("run.tf32=true")),
        ("synthesis, batch 12", "TF32", "mtlrun, graphs", synthesis("run.tf32=true", graphs)),
        ("synthesis, batch 12", "TF32", "eager", torch_synthesis("--tf32")),
        ("synthesis, batch 12", "bf16", "mtlrun", synthesis("run.precision=bf16")),
        ("synthesis, batch 12", "bf16", "mtlrun, graphs", synthesis("run.precision=bf16", graphs)),
        ("synthesis, batch 12", "bf16", "eager", torch_synthesis("--bf16")),
        ("ir50", "float32", "mtlrun", recognition()),
        ("ir50", "float32", "eager", torch()),
        ("ir50", "TF32", "mtlrun", recognition("run.tf32=true")),
        ("ir50", "TF32", "eager", torch("--tf32")),
        ("ir50", "fp16", "mtlrun", recognition("run.precision=fp16")),
        ("ir50", "fp16", "mtlrun, graphs", recognition("run.precision=fp16", graphs)),
        ("ir50", "fp16", "eager", torch("--fp16")),
        ("ir101", "bf16", "mtlrun", recognition("run.precision=bf16", depths(IR101))),
        ("ir101", "bf16", "eager", torch("--bf16", *deep)),
        ("ir50", "bf16", "compile", torch("--bf16", "--compile")),
        ("ir101", "TF32", "mtlrun", recognition("run.tf32=true", depths(IR101))),
        ("ir101", "TF32", "eager", torch("--tf32", *deep)),
    ]
    rows = [row for row in rows if all(word in " ".join(row[:3]) for word in a.only)]
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([sys.executable, ROOT / "tests/bench/make_faces.py", faces], check=True)
        print("| network | precision | program | ms a step | pictures a second | whole run, s | MiB of the card |", flush=True)
        print("|---|---|---|---|---|---|---|", flush=True)
        for network, precision, program, run in rows:
            if time.time() - START > a.seconds:
                break
            found = run(faces)
            if isinstance(found, str):
                print(f"| {network} | {precision} | {program} | {found} |", flush=True)
                continue
            seconds, whole, memory = found
            batch = int(network.split("batch ")[1]) if "batch" in network else a.batch
            print(
                f"| {network} | {precision} | {program} | {1000 * seconds:.1f} | {batch / seconds:.0f} | {whole:.0f} | {memory} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
