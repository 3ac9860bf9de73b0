"""The recognition step of aifr_scaf in PyTorch eager mode, to time beside mtlrun.

Same network (ir50, attention decomposition, embedding, CosFace, two age estimators), same losses, same optimizer.
Prints one JSON line: seconds a step (median), seconds from start to the first step done, peak memory in MB.
"""

import argparse
import json
import os
import resource
import statistics
import time

START = time.time()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


class Unit(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        if cin == cout:
            self.shortcut = nn.MaxPool2d(1, stride)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        self.residual = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.Conv2d(cin, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.PReLU(cout),
            nn.Conv2d(cout, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x):
        return self.shortcut(x) + self.residual(x)


class Backbone(nn.Module):
    def __init__(self, units=(3, 4, 14, 3)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        stages, cin = [], 64
        for n, cout in zip(units, (64, 128, 256, 512)):
            stages.append(nn.Sequential(*[Unit(cin if i == 0 else cout, cout, 2 if i == 0 else 1) for i in range(n)]))
            cin = cout
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


class Decomposition(nn.Module):
    def __init__(self, c=512):
        super().__init__()
        self.channel = nn.Sequential(
            nn.Conv2d(c * 14, c * 14 // 16, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c * 14 // 16, c, 1, bias=False),
            nn.BatchNorm2d(c, momentum=0.01),
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, 1, 3, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x):
        pool = lambda f: torch.cat([f(x, s).flatten(1) for s in (1, 2, 3)], 1)
        cells = pool(F.adaptive_avg_pool2d) + pool(F.adaptive_max_pool2d)
        channel = self.channel(cells[..., None, None]).sigmoid()
        spatial = self.spatial(torch.cat([x.amax(1, True), x.mean(1, True)], 1)).sigmoid()
        age = (x * channel + x * spatial) * 0.5
        return x - age, age


class Ages(nn.Module):
    def __init__(self, flat, groups=7):
        super().__init__()
        self.ages = nn.Sequential(nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, 101))
        self.groups = nn.Linear(101, groups)

    def forward(self, x):
        logits = self.ages(x)
        return logits, self.groups(logits)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


def age_loss(output, age, edges):
    logits, groups = output
    years = (logits.softmax(1) * torch.arange(101, device=logits.device)).sum(1)
    return F.mse_loss(years, age) + F.cross_entropy(groups, (age[:, None] > edges).sum(1))


def arguments(batch):
    p = argparse.ArgumentParser()
    p.add_argument("--batch", type=int, default=batch)
    p.add_argument("--size", type=int, default=112)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--fp16", action="store_true")
    p.add_argument("--channels-last", action="store_true")
    p.add_argument("--device", default="cpu")
    p.add_argument("--tf32", action="store_true", help="on CUDA, factors of float32 products may be rounded")
    p.add_argument("--compile", action="store_true", help="the forward pass by torch.compile")
    return p


def prepare(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.tf32
    torch.backends.cudnn.benchmark = True


def timed(step, steps, start):
    step()
    first = time.time() - start
    times = []
    for _ in range(steps):
        begin = time.time()
        step()
        times.append(time.time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_reserved() / 2**20
    return {"seconds": statistics.median(times), "first": first, "peak_mb": peak}


def main():
    p = arguments(batch=16)
    p.add_argument("--identities", type=int, default=1000)
    p.add_argument("--profile", action="store_true", help="also print time by operator")
    p.add_argument("--units", type=int, nargs=4, default=(3, 4, 14, 3))
    p.add_argument("--ranks", type=int, default=1, help="processes of DistributedDataParallel, by gloo")
    a = p.parse_args()
    if a.ranks > 1:
        torch.multiprocessing.spawn(of_rank, args=(a,), nprocs=a.ranks)
    else:
        recognition(a)


def of_rank(rank, a):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29512")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=a.ranks)
    recognition(a, rank)
    torch.distributed.destroy_process_group()


def parallel(losses, modules, head):
    """A loss whose gradients DistributedDataParallel averages."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.modules_, self.head = nn.ModuleList(modules), head

        def forward(self, *batch):
            return losses(*batch)

    return nn.parallel.DistributedDataParallel(Step())


def recognition(a, rank=0):
    prepare(a)
    flat = 512 * (a.size // 16) ** 2
    backbone, decompose = Backbone(a.units), Decomposition()
    embed = nn.Sequential(nn.BatchNorm2d(512), nn.Dropout(0.5), nn.Flatten(), nn.Linear(flat, 512), nn.BatchNorm1d(512))
    head = nn.Parameter(torch.empty(a.identities, 512))
    nn.init.xavier_uniform_(head)
    age, leak = Ages(flat), Ages(flat)
    modules = [backbone, decompose, embed, age, leak]
    for m in modules:
        m.to(a.device)
    head = nn.Parameter(head.detach().to(a.device))
    if a.channels_last:
        for m in modules:
            m.to(memory_format=torch.channels_last)
    params = [q for m in modules for q in m.parameters()] + [head]
    decayed = [
        q.weight for m in modules[:4] for q in m.modules() if isinstance(q, (nn.Conv2d, nn.Linear, nn.PReLU))
    ] + [head]
    optimizer = torch.optim.SGD(params, lr=1e-3, momentum=0.9)
    edges = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0], device=a.device)
    scaler = torch.amp.GradScaler(a.device, enabled=a.fp16)
    kind = torch.float16 if a.fp16 else torch.bfloat16

    def losses(image, label, years):
        with torch.autocast(a.device, kind, enabled=a.bf16 or a.fp16):
            features = backbone(image)
        x_id, x_age = decompose(features.float())
        cosine = F.linear(F.normalize(embed(x_id)), F.normalize(head))
        logits = 64.0 * (cosine - 0.35 * F.one_hot(label, a.identities))
        identity = F.cross_entropy(logits, label)
        total = identity + 0.001 * age_loss(age(x_age), years, edges)
        return total + 0.002 * age_loss(leak(Reverse.apply(x_id)), years, edges)

    if a.compile:
        losses = torch.compile(losses)
    if a.ranks > 1:
        losses = parallel(losses, modules, head)

    def step():
        image = torch.rand(a.batch, 3, a.size, a.size, device=a.device) * 2 - 1
        if a.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        label = torch.randint(a.identities, (a.batch,), device=a.device)
        years = torch.rand(a.batch, device=a.device) * 80
        optimizer.zero_grad()
        total = losses(image, label, years)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        with torch.no_grad():
            for q in decayed:
                q.grad.add_(q, alpha=5e-4)
        scaler.step(optimizer)
        scaler.update()
        return total.item()

    found = timed(step, a.steps, START)
    if a.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
            step()
        print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))
    if rank == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
