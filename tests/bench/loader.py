"""Pictures a second of torchvision's DataLoader, and of mtlrun's loader beside it.

    python tests/bench/loader.py --python PYTHON_WITH_TORCHVISION

Both decode JPEG files of 112x112, mirror at random and normalise to floats, in two workers.
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

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        Faces(), batch_size=64, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    for _ in loader:
        pass
    n, start = 0, time.time()
    while time.time() - start < seconds:
        for batch in loader:
            n += len(batch)
    return n / (time.time() - start)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--folder", type=pathlib.Path, help="time torchvision alone on this folder")
    a = p.parse_args()
    if a.folder:
        print(torchvision(a.folder, a.seconds))
        return
    with tempfile.TemporaryDirectory() as faces:
        subprocess.run([a.python, ROOT / "tests/bench/make_faces.py", faces], check=True)
        best = {"torchvision": 0.0, "mtlrun": 0.0}
        for _ in range(a.rounds):
            theirs = [a.python, __file__, "--folder", faces, "--seconds", str(a.seconds)]
            ours = [str(ROOT / "target/release/examples/loader"), f"{faces}/list.txt", str(a.seconds)]
            for name, args in (("torchvision", theirs), ("mtlrun", ours)):
                out = subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True).stdout
                best[name] = max(best[name], float(out.split()[-1]))
        print(f"torchvision {best['torchvision']:.0f} pictures/s, mtlrun {best['mtlrun']:.0f} pictures/s, "
              f"{best['mtlrun'] / best['torchvision']:.2f} times")


if __name__ == "__main__":
    main()
