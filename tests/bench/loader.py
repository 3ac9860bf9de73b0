"""Pictures a second of torchvision's DataLoader, and of mtlrun's loader beside it, of files and of a record file.

    python tests/bench/loader.py --python PYTHON_WITH_TORCHVISION [--mxnet PYTHON_WITH_MXNET_AND_TORCHVISION]

All decode JPEG files of 112x112, mirror at random and normalise to floats, in two workers. With --mxnet the records are read
as the dataset of arcface_torch reads them as well: by mxnet's reader and decoder, then torchvision's transforms.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def torchvision(folder, seconds):
    import torch
    from PIL import Image
    from torchvision import transforms

    class Faces(torch.utils.data.Dataset):
        def __init__(self):
            self.files = [folder / l.split()[1] for l in (folder / "list.txt").read_text().splitlines()]
            self.transform = transforms.Compose(
                [transforms.RandomHorizontalFlip(), transforms.Resize(112), transforms.ToTensor(),
                 transforms.Normalize([0.5] * 3, [0.5] * 3)]
            )

        def __len__(self):
            return len(self.files)

        def __getitem__(self, i):
            return self.transform(Image.open(self.files[i]).convert("RGB"))

    return timed(Faces(), seconds)


def mxnet(folder, seconds):
    import numbers
    import mxnet as mx
    import torch
    from torchvision import transforms

    class Faces(torch.utils.data.Dataset):
        def __init__(self):
            self.records = mx.recordio.MXIndexedRecordIO(f"{folder}/train.idx", f"{folder}/train.rec", "r")
            header, _ = mx.recordio.unpack(self.records.read_idx(0))
            self.keys = list(range(1, int(header.label[0])))
            self.transform = transforms.Compose(
                [transforms.ToPILImage(), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
                 transforms.Normalize([0.5] * 3, [0.5] * 3)]
            )

        def __len__(self):
            return len(self.keys)

        def __getitem__(self, i):
            header, picture = mx.recordio.unpack(self.records.read_idx(self.keys[i]))
            label = header.label if isinstance(header.label, numbers.Number) else header.label[0]
            return self.transform(mx.image.imdecode(picture).asnumpy()), torch.tensor(label, dtype=torch.long)

    return timed(Faces(), seconds)


def timed(faces, seconds):
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        faces, batch_size=64, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    for _ in loader:
        pass
    n, start = 0, time.time()
    while time.time() - start < seconds:
        for batch in loader:
            n += len(batch[0]) if isinstance(batch, list) else len(batch)
    return n / (time.time() - start)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--mxnet", help="a Python with mxnet and torchvision")
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--folder", type=pathlib.Path, help="time torchvision alone on this folder")
    p.add_argument("--records", type=pathlib.Path, help="time mxnet alone on this folder")
    a = p.parse_args()
    if a.folder:
        print(torchvision(a.folder, a.seconds))
        return
    if a.records:
        print(mxnet(a.records, a.seconds))
        return
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([a.python, ROOT / "tests/bench/make_faces.py", faces], check=True)
        packed = f"{faces}/packed"
        pack = [ROOT / "target/release/mtlrun", "data", "pack", f"{faces}/list.txt", "--out", packed]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        loader = str(ROOT / "target/release/examples/loader")
        programs = {
            "torchvision, files": [a.python, __file__, "--folder", faces, "--seconds", str(a.seconds)],
            "mtlrun, files": [loader, f"{faces}/list.txt", str(a.seconds)],
            "mtlrun, records": [loader, f"{packed}/list.txt", str(a.seconds), packed],
        }
        if a.mxnet:
            programs["mxnet and torchvision, records"] = [
                a.mxnet, __file__, "--records", packed, "--seconds", str(a.seconds)
            ]
        best = dict.fromkeys(programs, 0.0)
        for _ in range(a.rounds):
            for name, args in programs.items():
                out = subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True).stdout
                best[name] = max(best[name], float(out.split()[-1]))
        for name, rate in best.items():
            print(f"{name}: {rate:.0f} pictures/s, {rate / best['torchvision, files']:.2f} times torchvision")


if __name__ == "__main__":
    main()
