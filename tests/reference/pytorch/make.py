"""Writes the files of this folder with real PyTorch: the tests read them. Made with torch 2.11.0."""

import argparse
import collections
import datetime
import os
import pickle
import sys
import zipfile

import numpy
import torch

folder = os.path.dirname(os.path.abspath(__file__))
path = lambda name: os.path.join(folder, name)

torch.manual_seed(0)
long = torch.arange(10, dtype=torch.float32)
kinds = collections.OrderedDict(
    {
        "float": torch.arange(6, dtype=torch.float32).view(2, 3) / 4,
        "double": torch.tensor([1.0, 2.5], dtype=torch.float64),
        "half": torch.tensor([1.0, -0.5], dtype=torch.float16),
        "bfloat": torch.tensor([1.0, -3.0], dtype=torch.bfloat16),
        "long": torch.tensor([-1, 1 << 40]),
        "int": torch.tensor([7], dtype=torch.int32),
        "byte": torch.tensor([1, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "transposed": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
        "middle": long[3:6],
        "every_other": long[::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
    }
)
torch.save(kinds, path("kinds.pth"))
torch.save(kinds, path("old.pth"), _use_new_zipfile_serialization=False)

net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
with torch.no_grad():
    for i, p in enumerate(net.parameters()):
        p.fill_(i + 1)
torch.save(net.state_dict(), path("module.pt"))
optimizer = torch.optim.Adam(net.parameters())
net(torch.zeros(2, 2, 1, 1)).sum().backward()
optimizer.step()
with torch.no_grad():
    for i, p in enumerate(net.parameters()):
        p.fill_(i + 1)
parallel = {"module." + k: v for k, v in net.state_dict().items()}
checkpoint = {
    "epoch": 3,
    "lr": 0.1,
    "name": "é",
    "best": None,
    "history": [1, 2.5, True],
    "seen": {1, 2},
    "size": torch.Size([2, 3]),
    "optimizer": optimizer.state_dict(),
    "state_dict": parallel,
}
torch.save(checkpoint, path("checkpoint.pth"))


# What lies beside the tensors is of argparse, NumPy and a class of the script's own.
class Hparams(dict):
    pass


hparams = Hparams(margin=0.5)
hparams.note = "attributes"
beside = {
    "args": argparse.Namespace(lr=0.1, out=None, milestones=[8, 14]),
    "best": numpy.float64(0.97),
    "when": datetime.datetime(2021, 3, 4),
    "hyper_parameters": hparams,
    "state_dict": net.state_dict(),
}
torch.save(beside, path("beside.ckpt"))
torch.save(net, path("whole.pt"))
torch.jit.save(torch.jit.script(net), path("script.pt"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-run",)


torch.save({"weight": torch.ones(2), "extra": Evil()}, path("evil.pth"))
print(torch.__version__, sys.version.split()[0], zipfile.ZipFile(path("evil.pth")).namelist(), pickle.format_version)
