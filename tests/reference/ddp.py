"""Three steps of a small recognition network by PyTorch's DistributedDataParallel: two processes of gloo, in double.

    python tests/reference/ddp.py

Writes ddp.json and the safetensors files beside it, which tests/system/ranks.rs compares with two ranks of mtlrun. The
network, its names and its losses are those of tests/recipes/tiny.toml without dropout. BatchNorm keeps the statistics of
each process. Written with torch 2.11.0.
"""

import json
import os
import pathlib

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

FOLDER = pathlib.Path(__file__).parent
RANKS, STEPS, BATCH, SIZE, PEOPLE, WIDTH = 2, 3, 4, 16, 5, 4
EDGES = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0], dtype=torch.float64)


class Unit(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.stride = stride
        if cin != cout:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.Conv2d(cin, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.PReLU(cout),
            nn.Conv2d(cout, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x):
        short = self.shortcut_layer(x) if hasattr(self, "shortcut_layer") else x[:, :, :: self.stride, :: self.stride]
        return short + self.res_layer(x)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.PReLU(WIDTH))
        cin = WIDTH
        for stage, cout in enumerate([WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH], 1):
            setattr(self, f"block{stage}", nn.Sequential(Unit(cin, cout, 2)))
            cin = cout

    def forward(self, x):
        x = self.input_layer(x)
        return self.block4(self.block3(self.block2(self.block1(x))))


class Decomposition(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.channel = nn.Sequential(
            nn.Conv2d(c * 14, c * 14 // 16, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c * 14 // 16, c, 1, bias=False),
            nn.BatchNorm2d(c, momentum=0.01),
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, 1, 3, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x):
        def pooled(pool):
            return torch.cat([pool(x, side).flatten(1) for side in (1, 2, 3)], 1)

        cells = pooled(F.adaptive_avg_pool2d) + pooled(F.adaptive_max_pool2d)
        channel = self.channel(cells[..., None, None]).sigmoid()
        spatial = self.spatial(torch.cat([x.amax(1, True), x.mean(1, True)], 1)).sigmoid()
        age = (x * channel + x * spatial) * 0.5
        return x - age, age


class Ages(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.age_output_layer = nn.Sequential(
            nn.BatchNorm2d(c), nn.Flatten(), nn.Linear(c, 16), nn.ReLU(), nn.Linear(16, 101)
        )
        self.group_output_layer = nn.Linear(101, 7)

    def forward(self, x):
        logits = self.age_output_layer(x)
        return logits, self.group_output_layer(logits)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(PEOPLE, 16))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding, label):
        cosine = F.linear(F.normalize(embedding), F.normalize(self.weight))
        return 64.0 * (cosine - 0.35 * F.one_hot(label, PEOPLE).to(cosine))


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        c = 8 * WIDTH
        self.backbone, self.decompose = Backbone(), Decomposition(c)
        self.embed = nn.Sequential(nn.BatchNorm2d(c), nn.Identity(), nn.Flatten(), nn.Linear(c, 16), nn.BatchNorm1d(16))
        self.identity, self.age, self.leak = Head(), Ages(c), Ages(c)

    def forward(self, image, label):
        identity, age = self.decompose(self.backbone(image))
        return self.identity(self.embed(identity), label), self.age(age), self.leak(Reverse.apply(identity))


def age_loss(output, age):
    logits, groups = output
    years = (logits.softmax(1) * torch.arange(101, dtype=torch.float64)).sum(1)
    return F.mse_loss(years, age) + F.cross_entropy(groups, (age[:, None] > EDGES).sum(1))


def batches(rank):
    """What a process sees, in float32 as it is stored."""
    g = torch.Generator().manual_seed(100 + rank)
    out = {}
    for step in range(1, STEPS + 1):
        out[f"{step}/faces.image"] = torch.rand(BATCH, 3, SIZE, SIZE, generator=g) * 2 - 1
        out[f"{step}/faces.identity"] = torch.randint(PEOPLE, (BATCH,), generator=g)
        age = (torch.rand(BATCH, generator=g) * 80).round()
        out[f"{step}/faces.age"] = age
        out[f"{step}/faces.group"] = (age[:, None] > EDGES).sum(1)
        out[f"{step}/faces.gender"] = torch.randint(2, (BATCH,), generator=g)
    return out


def train(rank, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = Network()
    inputs = batches(rank)
    save_file(inputs, folder / f"ddp_inputs_{rank}.safetensors")
    if rank == 0:
        save_file(dict(network.state_dict()), folder / "ddp_weights.safetensors")
    network = network.double()
    parallel = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    steps = []
    for step in range(1, STEPS + 1):
        label, age = inputs[f"{step}/faces.identity"], inputs[f"{step}/faces.age"].double()
        logits, years, leaked = parallel(inputs[f"{step}/faces.image"].double(), label)
        losses = {
            "identity": F.cross_entropy(logits, label),
            "age": age_loss(years, age),
            "domain": age_loss(leaked, age),
        }
        optimizer.zero_grad()
        (losses["identity"] + 0.001 * losses["age"] + 0.002 * losses["domain"]).backward()
        norms = {name: p.grad.norm().item() for name, p in network.named_parameters()}
        optimizer.step()
        steps.append({"losses": {k: v.item() for k, v in losses.items()}, "grad_norms": norms})
    weights = {name: p.norm().item() for name, p in network.named_parameters()}
    (folder / f"ddp_{rank}.json").write_text(json.dumps({"steps": steps, "weight_norms": weights}))
    dist.destroy_process_group()


def main():
    mp.spawn(train, args=(FOLDER,), nprocs=RANKS)
    parts = [FOLDER / f"ddp_{rank}.json" for rank in range(RANKS)]
    found = [json.loads(part.read_text()) for part in parts]
    (FOLDER / "ddp.json").write_text(json.dumps({"torch": torch.__version__, "ranks": found}, indent=1) + "\n")
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    main()
