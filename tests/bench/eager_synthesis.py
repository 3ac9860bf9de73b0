"""The synthesis step of fas_scaf in PyTorch eager mode, to time beside mtlrun.

Same networks (ir50 and attention decomposition, task router, residual decoder, spectral-normalised patch critic), same
losses, same optimizers. As in the published code the encoder and the critic collect gradients that nobody uses and
the embedding is computed; --frozen leaves that out. Prints one JSON line: seconds a step (median), seconds from start
to the first step done, peak memory in MB.
"""

import json
import time

START = time.time()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from eager import Ages, Backbone, Decomposition, arguments, prepare, timed  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import spectral_norm  # noqa: E402

GROUPS, UNITS, SIGMA = 7, 128, 0.125
WIDTH = int((GROUPS - (GROUPS - 1) * SIGMA) * UNITS)


class Encoder(nn.Module):
    def __init__(self, flat):
        super().__init__()
        self.backbone, self.decompose = Backbone(), Decomposition()
        self.embed = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.5), nn.Flatten(), nn.Linear(flat, 512), nn.BatchNorm1d(512)
        )

    def forward(self, x, embed):
        maps = []
        x = self.backbone.stem(x)
        for stage in self.backbone.stages:
            x = stage(x)
            maps.append(x)
        x_id, x_age = self.decompose(x.float())
        if embed:
            self.embed(x_id)
        return [m.float() for m in maps[:3]], x_id, x_age


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH))
        self.a, self.b, self.act_a, self.act_b = conv(), conv(), nn.PReLU(WIDTH), nn.PReLU(WIDTH)

    def forward(self, x, mask):
        y = self.act_a(self.a(x) * mask)
        return self.act_b(x + self.b(y) * mask)


class Up(nn.Module):
    def __init__(self, cin, skip, cout):
        super().__init__()
        twice = lambda i, o: nn.Sequential(
            nn.BatchNorm2d(i),
            nn.PReLU(i),
            nn.Conv2d(i, o, 3, 1, 1),
            nn.BatchNorm2d(o),
            nn.PReLU(o),
            nn.Conv2d(o, o, 3, 1, 1),
        )
        self.first, self.second, self.shortcut = twice(cin + skip, cout), twice(cout, cout), nn.Conv2d(cin, cout, 1)

    def forward(self, x, skip):
        if x.shape[2] < skip.shape[2]:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y = self.first(torch.cat([x, skip], 1)) + self.shortcut(x)
        return y + self.second(y)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layer = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o), nn.PReLU(o))
        self.enter, self.leave = layer(512, WIDTH), layer(WIDTH, 512)
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        masks = torch.zeros(GROUPS, WIDTH)
        start = 0
        for g in range(GROUPS):
            masks[g, start : start + UNITS] = 1
            start = int(start + (1 - SIGMA) * UNITS)
        self.register_buffer("masks", masks)
        skips = [(512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 3, 32)]
        self.ups, self.last = nn.ModuleList([Up(*s) for s in skips]), nn.Conv2d(32, 3, 1)

    def forward(self, image, maps, x_id, group):
        mask = self.masks[group][..., None, None]
        x = self.enter(x_id) * mask
        for block in self.blocks:
            x = block(x, mask)
        x = self.leave(x)
        for up, skip in zip(self.ups, [maps[2], maps[1], maps[0], image]):
            x = up(x, skip)
        return image + self.last(x)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        sn = lambda i, o, s: nn.Sequential(spectral_norm(nn.Conv2d(i, o, 4, s, 1)), nn.LeakyReLU(0.2))
        self.first = nn.Sequential(nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2))
        self.rest = nn.Sequential(
            sn(64 + GROUPS, 128, 2), sn(128, 256, 2), sn(256, 512, 2), sn(512, 512, 1), nn.Conv2d(512, 1, 4, 1, 1)
        )

    def forward(self, x, group):
        x = self.first(x)
        code = F.one_hot(group, GROUPS).float()[..., None, None].expand(-1, -1, *x.shape[2:])
        return self.rest(torch.cat([x, code], 1))


def main():
    p = arguments(batch=4)
    p.add_argument("--frozen", action="store_true", help="no gradients that nobody uses, no embedding")
    a = p.parse_args()
    prepare(a)
    torch.set_default_device(a.device)
    flat = 512 * (a.size // 16) ** 2
    encoder, age, generator, critic = Encoder(flat).eval(), Ages(flat), Generator(), Critic()
    if a.frozen:
        encoder.requires_grad_(False)
        age.requires_grad_(False)
    if a.channels_last:
        for m in [encoder, age, generator, critic]:
            m.to(memory_format=torch.channels_last)
    d_optim = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.5, 0.99))
    g_optim = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.5, 0.99))

    def pictures():
        x = torch.rand(a.batch, 3, a.size, a.size) * 2 - 1
        return x.contiguous(memory_format=torch.channels_last) if a.channels_last else x

    def step():
        source, target, group = pictures(), pictures(), torch.randint(GROUPS, (a.batch,))
        autocast = lambda: torch.autocast(a.device, torch.bfloat16, enabled=a.bf16)
        with torch.no_grad(), autocast():
            maps, x_id, _ = encoder(source, not a.frozen)
        aged = generator(source, maps, x_id.float(), group)
        d_optim.zero_grad()
        d_loss = 0.5 * ((critic(target, group) - 1) ** 2).mean() + 0.5 * (critic(aged.detach(), group) ** 2).mean()
        d_loss.backward()
        d_optim.step()
        with autocast():
            _, g_id, g_age = encoder(aged, not a.frozen)
        g_optim.zero_grad()
        critic.requires_grad_(not a.frozen)
        total = 75 * 0.5 * ((critic(aged, group) - 1) ** 2).mean()
        total = total + 0.002 * F.mse_loss(g_id.float(), x_id.float()) + 10 * F.cross_entropy(age(g_age.float())[1], group)
        total.backward()
        critic.requires_grad_(True)
        g_optim.step()
        return total.item()

    print(json.dumps(timed(step, a.steps, START)))


if __name__ == "__main__":
    main()
