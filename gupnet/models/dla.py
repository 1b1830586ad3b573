"""The backbone: DLA-34, deep layer aggregation (NOTES 4.2 to 4.5), with the official names of its tensors."""

import paddle
from paddle import nn
from paddle.nn import functional as F

from shared.norms import BatchNorm2D

from .layers import ConvNormReLU, conv, torch_default

CHANNELS = (16, 32, 64, 128, 256, 512)
CLASSES = 1000


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride), BatchNorm2D(outputs), nn.ReLU())


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions with batch norms; the residual is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = BatchNorm2D(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = BatchNorm2D(outputs)

    def forward(self, x, residual):
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride], which is `residual`'s shape too."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + residual)


class Root(ConvNormReLU):
    """Joins the branches of a tree: concatenation, 1x1 convolution, batch norm, ReLU."""

    def forward(self, branches: list):
        """[N, channels of each, H, W] -> [N, outputs, H, W]."""
        return super().forward(paddle.concat(branches, 1))


class Tree(nn.Layer):
    """A tree of depth 1 (two blocks and a root) or of depth 2 (two trees, of which the second one's root joins all).

    `extra`: channels of the root's input beside the two blocks'. The `project` of a tree of depth 2 is in the official
    files and its batch norm's statistics move in training, but nothing uses its output (NOTES 4.4, 4.5).
    """

    def __init__(
        self, depth: int, inputs: int, outputs: int, stride: int = 1, level_root: bool = False, extra: int = 0
    ):
        super().__init__()
        self.stride, self.level_root = stride, level_root
        extra += inputs if level_root else 0
        if depth == 1:
            self.tree1 = BasicBlock(inputs, outputs, stride)
            self.tree2 = BasicBlock(outputs, outputs)
            self.root = Root(2 * outputs + extra, outputs, 1)
        else:
            self.tree1 = Tree(depth - 1, inputs, outputs, stride)
            self.tree2 = Tree(depth - 1, outputs, outputs, extra=extra + outputs)
        self.project = None
        if inputs != outputs:
            self.project = nn.Sequential(conv(inputs, outputs, 1), BatchNorm2D(outputs))

    @property
    def idle_project(self) -> bool:
        """Whether the tree has a `project` whose output nothing uses."""
        return self.project is not None and isinstance(self.tree1, Tree)

    def forward(self, x, gathered: list | None = None):
        """[N, inputs, H, W] and the root's further inputs -> [N, outputs, H / stride, W / stride]."""
        gathered = list(gathered or [])
        bottom = F.max_pool2d(x, 2, 2) if self.stride > 1 else x
        if self.level_root:
            gathered.append(bottom)
        if isinstance(self.tree1, Tree):
            if self.idle_project and self.training:
                with paddle.no_grad():
                    self.project(bottom)
            first = self.tree1(x)
            return self.tree2(first, [*gathered, first])
        first = self.tree1(x, bottom if self.project is None else self.project(bottom))
        return self.root([self.tree2(first, first), first, *gathered])


class DLA34(nn.Layer):
    """The six levels of DLA-34. `fc`, ImageNet's classifier, is in the official files and is not used."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        c = CHANNELS
        self.base_layer = _conv_norm_relu(3, c[0], 7)
        self.level0 = _conv_norm_relu(c[0], c[0], 3)
        self.level1 = _conv_norm_relu(c[0], c[1], 3, 2)
        self.level2 = Tree(1, c[1], c[2], 2)
        self.level3 = Tree(2, c[2], c[3], 2, level_root=True)
        self.level4 = Tree(2, c[3], c[4], 2, level_root=True)
        self.level5 = Tree(1, c[4], c[5], 2, level_root=True)
        self.fc = conv(c[5], classes, 1, bias=torch_default(c[5], 1))

    def forward(self, images) -> list:
        """[N, 3, H, W], H and W divisible by 32 -> six maps [N, CHANNELS[i], H / 2^i, W / 2^i]."""
        x, levels = self.base_layer(images), []
        for level in (self.level0, self.level1, self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            levels.append(x)
        return levels

    def idle_layers(self) -> list[nn.Layer]:
        """Layers whose parameters never get a gradient (NOTES 4.5)."""
        idle = [tree.project for tree in self.sublayers() if isinstance(tree, Tree) and tree.idle_project]
        return [*idle, self.fc]
