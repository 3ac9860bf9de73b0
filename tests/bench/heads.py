"""Times two ranks with heads of many identities: whole, cut by classes, and cut with a share of the classes in a step.

    python tests/bench/heads.py [--identities 100000 1000000] [--rounds 2]

A narrow encoder on random pictures, so that the head takes most of the step; memory is that of the larger rank. Build with
`cargo build --release` first; nothing else should run on the machine meanwhile. Needs numpy and Pillow.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOSS = 'loss.identity={ component = "value", in = { value = "logits.loss" } }'
READS_LOGITS = ["--unset", "loss.identity.in.logits", "--unset", "loss.identity.in.target"]
HEADS = {
    "whole, cross_entropy on logits": ("", False),
    "whole, its own loss": ("", True),
    "cut by classes": (', shard = "classes"', True),
    "cut, sample_rate 0.1": (', shard = "classes", sample_rate = 0.1', True),
}


def most_memory(pid, out):
    """Follows the processes that one has started: the most that one of them held, in MiB."""
    while True:
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for child in children:
                status = pathlib.Path(f"/proc/{child}/status").read_text()
                peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
                out[0] = max([out[0], *(kib // 1024 for kib in peak)])
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)


def run(a, faces, identities, head, own_loss, size):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        args = [a.mtlrun, ROOT / "recipes/bench/ir50_112.toml", "--out", out, "-q", "--threads", "1", "--nproc", "2"]
        sets = [f"data.faces.list={faces}/list.txt", "data.faces.declares=false", f"dims.identities={identities}"]
        sets += ["data.faces.size=32", "data.faces.batch_size=32", f"run.steps={a.steps}", f"model.embed.size={size}"]
        sets += ["model.backbone.width=8", "model.backbone.depths=[1,1,1,1]"]
        sets.append(f'model.identity={{ component = "cosface"{head} }}')
        sets += [LOSS] * own_loss
        for value in sets:
            args += ["--set", value]
        args += READS_LOGITS * own_loss
        process = subprocess.Popen(list(map(str, args)), stderr=subprocess.PIPE, text=True)
        most = [0]
        threading.Thread(target=most_memory, args=(process.pid, most), daemon=True).start()
        said = process.stderr.read()
        if process.wait():
            return None, said.strip().splitlines()[-1][:120]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        times = [line["time/seconds_per_step"] for line in lines if line["kind"] == "time"]
        return statistics.median(times[2:]), most[0]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--mtlrun", default=ROOT / "target/release/mtlrun")
    p.add_argument("--identities", type=int, nargs="+", default=[100_000, 1_000_000])
    p.add_argument("--size", type=int, default=512, help="numbers of an embedding")
    p.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--rounds", type=int, default=1)
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([sys.executable, ROOT / "tests/bench/make_faces.py", faces, "--size", "32"], check=True)
        print("| identities | head | s a step | MiB of a rank |\n|---|---|---|---|", flush=True)
        for identities in a.identities:
            found = {name: [] for name in a.heads}
            for _ in range(a.rounds):
                for name in a.heads:
                    found[name].append(run(a, faces, identities, *HEADS[name], a.size))
            for name, times in found.items():
                seconds = [s for s, _ in times if s is not None]
                shown = f"{statistics.median(seconds):.2f}" if seconds else "failed"
                print(f"| {identities:,} | {name} | {shown} | {times[-1][1]} |", flush=True)


if __name__ == "__main__":
    main()
