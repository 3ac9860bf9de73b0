"""Opening millions of records with a block of identities: mtlrun beside mxnet, which reads their index.

    python tests/bench/open.py --mxnet PYTHON_WITH_MXNET [--records 6000000] [--people 85000]

mtlrun says how many pictures each person has, which needs the label of every record, and looks at 500 pictures; mxnet
only reads the index. Needs NumPy to write the records, which hold eight bytes for a picture each.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAGIC = 0xCED7230A

OPEN = """
import sys, time
import mxnet as mx
start = time.time()
records = mx.recordio.MXIndexedRecordIO(sys.argv[1] + "/train.idx", sys.argv[1] + "/train.rec", "r")
assert len(records.keys) > 1
print(time.time() - start)
"""


def written(folder, records, people):
    """Writes the pictures by person, the people's ranges, and record 0 behind them."""
    picture = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
                        ("id2", "<u8"), ("data", "S8")])
    block = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"),
                      ("id2", "<u8"), ("first", "<f4"), ("last", "<f4")])
    bounds = np.linspace(1, records + 1, people + 1).astype(np.int64)
    pictures = np.zeros(records, picture)
    pictures["label"] = np.repeat(np.arange(people), np.diff(bounds))
    pictures["id"] = np.arange(1, records + 1)
    pictures["data"] = b"a picture"[:8]
    ranges = np.zeros(people + 1, block)
    ranges["flag"] = 2
    ranges["id"][:people] = np.arange(records + 1, records + 1 + people)
    ranges["first"] = np.append(bounds[:-1], records + 1)
    ranges["last"] = np.append(bounds[1:], records + 1 + people)
    for part in (pictures, ranges):
        part["magic"], part["length"] = MAGIC, part.dtype.itemsize - 8
    with open(folder / "train.rec", "wb") as file:
        pictures.tofile(file)
        ranges.tofile(file)
    keys = np.append(np.arange(1, records + 1 + people), 0)
    offsets = np.arange(len(keys)) * picture.itemsize
    with open(folder / "train.idx", "w") as file:
        for start in range(0, len(keys), 1 << 16):
            part = zip(keys[start:start + (1 << 16)], offsets[start:start + (1 << 16)])
            file.write("".join(f"{key}\t{offset}\n" for key, offset in part))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--mxnet", help="a Python with mxnet")
    p.add_argument("--records", type=int, default=6_000_000)
    p.add_argument("--people", type=int, default=85_000)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        written(pathlib.Path(folder), a.records, a.people)
        inspect = ["/usr/bin/env", "time", "-f", "%e %M", ROOT / "target/release/mtlrun", "data", "inspect", folder]
        best, memory, other = float("inf"), 0, float("inf")
        for _ in range(a.rounds):
            done = subprocess.run(inspect, check=True, capture_output=True, text=True)
            seconds, kilobytes = done.stderr.split()[-2:]
            best, memory = min(best, float(seconds)), max(memory, int(kilobytes) // 1024)
            if a.mxnet:
                done = subprocess.run([a.mxnet, "-c", OPEN, folder], check=True, capture_output=True, text=True)
                other = min(other, float(done.stdout))
        print(f"mtlrun data inspect: {best:.2f} s, {memory} MiB")
        if a.mxnet:
            print(f"mxnet, the index alone: {other:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
