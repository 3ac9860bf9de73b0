"""Times two ranks of mtlrun beside PyTorch's DistributedDataParallel, alternately: ir50, 112x112, float32, one thread each.

    python tests/bench/ranks.py --python PYTHON_WITH_TORCH [--rounds 2] [--batch 8]

Both by gloo, BatchNorm with the statistics of each process; also mtlrun alone with the batch of one rank, to see what
communication costs. Build with `cargo build --release` first; nothing else should run on the machine meanwhile.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def ours(a, faces, nproc, *more):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        args = [a.mtlrun, ROOT / "recipes/bench/ir50_112.toml", "--out", out, "-q", "--threads", "1", "--nproc", nproc]
        sets = [f"data.faces.list={faces}/list.txt", f"data.faces.batch_size={a.batch}", f"run.steps={a.steps + 2}"]
        sets += ["data.faces.workers=1", "run.sync_batch_norm=false", *more]
        for value in sets:
            args += ["--set", value]
        subprocess.run(list(map(str, args)), check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return statistics.median([line["time/seconds_per_step"] for line in lines if line["kind"] == "time"][2:])


def eager(a, *more):
    args = [a.python, ROOT / "tests/bench/eager.py", "--threads", 1, "--steps", a.steps, "--batch", a.batch, *more]
    out = subprocess.run(list(map(str, args)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(out.stdout.splitlines()[-1])["seconds"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--python", required=True)
    p.add_argument("--mtlrun", default=ROOT / "target/release/mtlrun")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--batch", type=int, default=8)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([a.python, ROOT / "tests/bench/make_faces.py", faces], check=True)
        programs = {
            "DDP, channels_last": lambda: eager(a, "--ranks", 2, "--channels-last"),
            "DDP": lambda: eager(a, "--ranks", 2),
            "mtlrun, two ranks": lambda: ours(a, faces, 2),
            "mtlrun, two ranks, direct convolutions": lambda: ours(a, faces, 2, "run.winograd=false"),
            "mtlrun, two ranks, synchronised BatchNorm": lambda: ours(a, faces, 2, "run.sync_batch_norm=true"),
            "mtlrun alone": lambda: ours(a, faces, 1),
        }
        found = {name: [] for name in programs}
        for _ in range(a.rounds):
            for name, run in programs.items():
                found[name].append(run())
        base = statistics.median(found["DDP"])
        print("| program | s a step | times DDP |\n|---|---|---|")
        for name, times in found.items():
            seconds = statistics.median(times)
            print(f"| {name} | {seconds:.2f} | {base / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
