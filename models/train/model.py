"""The network: YOLO11's blocks, slimmer than its smallest published size.

Layout and block designs follow the public description of YOLO11 (Khanam & Hussain 2024) and what it builds on: CSP
stages (Wang et al. 2020), SPPF (He et al. 2015, in Jocher's fast form), FPN/PAN (Lin et al. 2017, Liu et al. 2018),
position-sensitive attention (Wang et al. 2024, YOLOv10), box sides as distributions (Li et al. 2020). Layers carry the
numbers of YOLO11's list (0..23), so that the exported node names are the familiar ones.
"""
from dataclasses import asdict, dataclass

import torch
from torch import nn

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
STRIDES = (8, 16, 32)
BINS = 16  # of the distribution over a box side's distance, in strides: 0..15
PAD = 114  # grey that fills what no picture covers


@dataclass(frozen=True)
class Widths:
    """Channels after each stage. YOLO11n would be 16, 32, 64, 64, 128, 128, 256; neck 64, 128, 256; box 64, score 80."""

    stem: int = 16      # stride 2
    s4: int = 24        # stride 4, the convolution that gets there
    p2: int = 32        # stride 4, the stage
    s8: int = 32
    p3: int = 64
    p4: int = 64
    p5: int = 128
    n3: int = 32        # what the head sees at stride 8, 16, 32
    n4: int = 64
    n5: int = 128
    box: int = 32       # inside the head's branch for the sides
    score: int = 32     # inside the head's branch for the classes

    def as_dict(self):
        return asdict(self)


# The first layers take most of the time and hardly any of the parameters, so these sizes differ in what comes later.
PRESETS = {
    "0.44M": Widths(stem=12, s4=16, p2=24, s8=24, p3=48, p4=56, p5=104, n3=24, n4=56, n5=104, box=24, score=24),
    "0.66M": Widths(),
    "0.71M": Widths(n3=48, n5=96, box=48, score=48),  # more for small objects, less for large ones
}
DEFAULT = "0.71M"


class Conv(nn.Module):
    """Convolution, batch norm, SiLU. `fuse` folds the norm into the convolution for export."""

    def __init__(self, c_in, c_out, k=1, s=1, groups=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, k, s, k // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.bn.num_batches_tracked = None  # only counts
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fuse(self):
        if isinstance(self.bn, nn.Identity):
            return
        conv, bn = self.conv, self.bn
        factor = (bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()).detach()
        fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
                          groups=conv.groups, bias=True)
        fused.weight.data = (conv.weight.detach().double() * factor.view(-1, 1, 1, 1)).float()
        fused.bias.data = (bn.bias.detach().double() - bn.running_mean.double() * factor).float()
        self.conv, self.bn = fused, nn.Identity()


class Bottleneck(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, c, hidden):
        super().__init__()
        self.cv1 = Conv(c, hidden, 3)
        self.cv2 = Conv(hidden, c, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class C3k(nn.Module):
    """CSP stage with two bottlenecks; YOLO11 nests it in C3k2 where the picture is small."""

    def __init__(self, c):
        super().__init__()
        hidden = c // 2
        self.cv1 = Conv(c, hidden)
        self.cv2 = Conv(c, hidden)
        self.cv3 = Conv(2 * hidden, c)
        self.m = nn.Sequential(Bottleneck(hidden, hidden), Bottleneck(hidden, hidden))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k2(nn.Module):
    """Split, one inner block, concatenation of all parts."""

    def __init__(self, c_in, c_out, deep, e=0.5):
        super().__init__()
        self.c = int(c_out * e)
        self.cv1 = Conv(c_in, 2 * self.c)
        self.cv2 = Conv(3 * self.c, c_out)
        self.m = nn.ModuleList([C3k(self.c) if deep else Bottleneck(self.c, max(self.c // 2, 8))])

    def forward(self, x):
        a, b = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat((a, b, self.m[0](b)), 1))


class Concat(nn.Module):
    def forward(self, *parts):
        return torch.cat(parts, 1)


class SPPF(nn.Module):
    """Three 5x5 poolings in a row see 5, 9 and 13 cells."""

    def __init__(self, c):
        super().__init__()
        self.cv1 = Conv(c, c // 2)
        self.cv2 = Conv(c // 2 * 4, c)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Attention(nn.Module):
    """Self-attention over all cells; a depth-wise convolution of the values tells where they are."""

    def __init__(self, c):
        super().__init__()
        self.heads = max(c // 64, 1)
        self.head_dim = c // self.heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim ** -0.5
        self.qkv = Conv(c, c + 2 * self.key_dim * self.heads, act=False)
        self.proj = Conv(c, c, act=False)
        self.pe = Conv(c, c, 3, groups=c, act=False)

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(x).reshape(b, self.heads, 2 * self.key_dim + self.head_dim, h * w)
        q, k, v = qkv.split((self.key_dim, self.key_dim, self.head_dim), 2)
        share = ((q * self.scale).transpose(-2, -1) @ k).softmax(-1)
        x = (v @ share.transpose(-2, -1)).reshape(b, c, h, w) + self.pe(v.reshape(b, c, h, w))
        return self.proj(x)


class PSABlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attn = Attention(c)
        self.ffn = nn.Sequential(Conv(c, 2 * c), Conv(2 * c, c, act=False))

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """Attention on half of the channels."""

    def __init__(self, c):
        super().__init__()
        self.c = c // 2
        self.cv1 = Conv(c, 2 * self.c)
        self.cv2 = Conv(2 * self.c, c)
        self.m = nn.Sequential(PSABlock(self.c))

    def forward(self, x):
        a, b = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat((a, self.m(b)), 1))


class DFL(nn.Module):
    """Expectation of the distribution over a side's distance: softmax, then a 1x1 convolution with 0..15."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False)
        self.conv.weight.data = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
        self.conv.requires_grad_(False)

    def forward(self, x, anchors):
        b = x.shape[0]
        x = x.reshape(b, 4, BINS, anchors).transpose(2, 1).softmax(1)
        return self.conv(x).reshape(b, 4, anchors)


class Detect(nn.Module):
    """Separate branches for sides (4 x 16 logits) and classes; the latter depth-wise separable."""

    def __init__(self, widths, channels, classes):
        super().__init__()
        self.classes = classes
        box, score = widths.box, widths.score
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * BINS, 1)) for c in channels)
        self.cv3 = nn.ModuleList(
            nn.Sequential(nn.Sequential(Conv(c, c, 3, groups=c), Conv(c, score)),
                          nn.Sequential(Conv(score, score, 3, groups=score), Conv(score, score)),
                          nn.Conv2d(score, classes, 1)) for c in channels)
        self.dfl = DFL()
        for stride, box, score in zip(STRIDES, self.cv2, self.cv3):
            box[-1].bias.data[:] = 1.0
            # About five objects in a picture of 320: without that bias the first steps only learn "nothing here".
            score[-1].bias.data[:] = torch.log(torch.tensor(5 / classes / (320 / stride) ** 2))

    def forward(self, levels):
        """Logits: sides [b, 64, anchors], classes [b, classes, anchors]."""
        sides = torch.cat([m(x).flatten(2) for m, x in zip(self.cv2, levels)], 2)
        scores = torch.cat([m(x).flatten(2) for m, x in zip(self.cv3, levels)], 2)
        return sides, scores


class Detector(nn.Module):
    """Pictures [b, 3, H, W], 0..1 RGB, sides multiples of 32. Gives the head's logits and the levels' grid sizes."""

    def __init__(self, widths=Widths(), classes=len(CLASSES)):
        super().__init__()
        self.widths, w = widths, widths
        self.model = nn.ModuleList([
            Conv(3, w.stem, 3, 2),                      # 0
            Conv(w.stem, w.s4, 3, 2),                   # 1
            C3k2(w.s4, w.p2, False, 0.25),              # 2
            Conv(w.p2, w.s8, 3, 2),                     # 3
            C3k2(w.s8, w.p3, False, 0.25),              # 4, stride 8
            Conv(w.p3, w.p4, 3, 2),                     # 5
            C3k2(w.p4, w.p4, True),                     # 6, stride 16
            Conv(w.p4, w.p5, 3, 2),                     # 7
            C3k2(w.p5, w.p5, True),                     # 8, stride 32
            SPPF(w.p5),                                 # 9
            C2PSA(w.p5),                                # 10
            nn.Upsample(scale_factor=2),                # 11
            Concat(),                                   # 12: 11 with 6
            C3k2(w.p5 + w.p4, w.n4, False),             # 13
            nn.Upsample(scale_factor=2),                # 14
            Concat(),                                   # 15: 14 with 4
            C3k2(w.n4 + w.p3, w.n3, False),             # 16, to the head
            Conv(w.n3, w.n3, 3, 2),                     # 17
            Concat(),                                   # 18: 17 with 13
            C3k2(w.n3 + w.n4, w.n4, False),             # 19, to the head
            Conv(w.n4, w.n4, 3, 2),                     # 20
            Concat(),                                   # 21: 20 with 10
            C3k2(w.n4 + w.p5, w.n5, True),              # 22, to the head
            Detect(w, (w.n3, w.n4, w.n5), classes),     # 23
        ])

    def features(self, x):
        m = self.model
        p3 = m[4](m[3](m[2](m[1](m[0](x)))))
        p4 = m[6](m[5](p3))
        p5 = m[10](m[9](m[8](m[7](p4))))
        n4 = m[13](m[12](m[11](p5), p4))
        n3 = m[16](m[15](m[14](n4), p3))
        n4 = m[19](m[18](m[17](n3), n4))
        n5 = m[22](m[21](m[20](n4), p5))
        return n3, n4, n5

    def forward(self, x):
        return self.model[23](self.features(x))

    def fuse(self):
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self


def anchors_of(height, width):
    """Centres of all cells [anchors, 2] in strides (x, y) and their strides [anchors, 1], level by level, row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride) + 0.5, torch.arange(width // stride) + 0.5, indexing="ij")
        centres.append(torch.stack((x, y), -1).view(-1, 2))
        strides.append(torch.full((centres[-1].shape[0], 1), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def decode(sides, anchors, strides):
    """Logits [b, 64, anchors] to corners x1 y1 x2 y2 in pixels [b, anchors, 4]."""
    b, _, n = sides.shape
    bins = torch.arange(BINS, dtype=torch.float32)
    distance = sides.float().view(b, 4, BINS, n).softmax(2).mul(bins.view(1, 1, BINS, 1)).sum(2)
    left_top, right_bottom = distance.transpose(1, 2).chunk(2, 2)
    return torch.cat((anchors - left_top, anchors + right_bottom), 2) * strides


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())
