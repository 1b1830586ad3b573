"""Conversion, layer type by layer type: against torch's own layers, bit for bit both ways, and what is refused."""

import hashlib

import numpy as np
import paddle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from shared.convert import ConversionError, plan
from shared.tests.layers import equal_bits, normal, random_state, small_networks

SIZE = st.integers(1, 5)
WIDTH = st.integers(1, 4)
modest = settings(max_examples=15, deadline=None)


def random_bits(state: dict, seed: int) -> dict:
    """The same form filled with every kind of bits: NaN payloads, infinities, negative zeros, denormals."""
    rng = np.random.default_rng(seed)
    bits = {k: np.frombuffer(rng.bytes(v.nbytes), v.dtype).reshape(v.shape) for k, v in state.items()}
    return {
        k: v if v.ndim == 0 else np.where(rng.random(v.shape) < 0.2, v.dtype.type(-0.0), v) for k, v in bits.items()
    }


def round_trip(torch_layer, paddle_layer, seed: int = 0, **rules) -> dict:
    """Both directions, bit for bit, names and order as torch has them; fills both layers alike."""
    network = plan(paddle_layer, **rules)
    state = random_state(torch_layer, seed)
    assert list(network.torch_shapes().items()) == [(k, tuple(v.shape)) for k, v in torch_layer.state_dict().items()]
    for tensors in (random_bits(state, seed), state):
        converted, torch_only, report = network.to_paddle(tensors)
        assert report.ok and report.converted == len(state), str(report)
        assert list(converted) == list(paddle_layer.state_dict())
        assert set(torch_only) == {name for name in state if name.endswith("num_batches_tracked")}
        back, report = network.to_torch(converted, torch_only)
        assert report.ok and equal_bits(back, tensors), str(report)
    assert paddle_layer.set_state_dict(converted) == ([], [])
    torch_layer.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return state


def same_output(torch_layer, paddle_layer, *inputs, seed: int = 0) -> None:
    round_trip(torch_layer, paddle_layer, seed)
    torch_layer.eval(), paddle_layer.eval()
    with torch.no_grad():
        expected = torch_layer(*map(torch.from_numpy, inputs))
    got = paddle_layer(*map(paddle.to_tensor, inputs))
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@modest
@given(SIZE, SIZE, st.booleans(), st.booleans())
def test_linear(a, b, square, bias):
    b = a if square else b
    same_output(torch.nn.Linear(a, b, bias), nn.Linear(a, b, bias_attr=None if bias else False), normal(2, a))


@modest
@given(st.sampled_from([1, 2, 3]), WIDTH, WIDTH, WIDTH, st.sampled_from([1, 2]), st.booleans(), st.booleans())
def test_convolutions(rank, a, b, kernel, groups, bias, transposed):
    name = "Conv{}Transpose{}d" if transposed else "Conv{}{}d"
    theirs = getattr(torch.nn, name.format("", rank))(a * groups, b * groups, kernel, groups=groups, bias=bias)
    ours = getattr(nn, f"Conv{rank}D{'Transpose' if transposed else ''}")
    ours = ours(a * groups, b * groups, kernel, groups=groups, bias_attr=None if bias else False)
    same_output(theirs, ours, normal(2, a * groups, *[5] * rank))


@modest
@given(st.sampled_from([1, 2, 3]), SIZE, st.booleans())
def test_batch_norms(rank, width, affine):
    attr = None if affine else False
    ours = getattr(nn, f"BatchNorm{rank}D")(width, weight_attr=attr, bias_attr=attr)
    same_output(getattr(torch.nn, f"BatchNorm{rank}d")(width, affine=affine), ours, normal(3, width, *[4] * rank))


@modest
@given(SIZE, st.sampled_from(["group", "layer", "instance", "embedding", "prelu"]))
def test_other_layers(width, kind):
    table = np.arange(width).reshape(1, width)  # an embedding of as many words as dimensions must not be transposed
    cases = {
        "group": (torch.nn.GroupNorm(width, 2 * width), nn.GroupNorm(width, 2 * width), normal(2, 2 * width, 3, 3)),
        "layer": (torch.nn.LayerNorm([3, width]), nn.LayerNorm([3, width]), normal(2, 3, width)),
        "instance": (torch.nn.InstanceNorm2d(width, affine=True), nn.InstanceNorm2D(width), normal(2, width, 4, 4)),
        "embedding": (torch.nn.Embedding(width, width), nn.Embedding(width, width), table),
        "prelu": (torch.nn.PReLU(width), nn.PReLU(width), normal(2, width, 3)),
    }
    same_output(*cases[kind])


@modest
@given(st.sampled_from([(4, 1), (4, 2), (6, 3)]), st.booleans(), st.booleans(), SIZE, SIZE)
def test_attention(form, bias, apart, kdim, vdim):
    width, heads = form
    kdim, vdim = (kdim, vdim) if apart else (width, width)
    theirs = torch.nn.MultiheadAttention(width, heads, bias=bias, kdim=kdim, vdim=vdim, batch_first=True)
    ours = nn.MultiHeadAttention(width, heads, kdim=kdim, vdim=vdim, bias_attr=None if bias else False)
    round_trip(theirs, ours)
    inputs = normal(2, 3, width), normal(2, 5, kdim), normal(2, 5, vdim)
    theirs.eval(), ours.eval()
    expected = theirs(*map(torch.from_numpy, inputs))[0].detach().numpy()
    np.testing.assert_allclose(ours(*map(paddle.to_tensor, inputs)).numpy(), expected, rtol=1e-4, atol=1e-5)


class FrozenPaddle(nn.Layer):
    """A batch norm whose four tensors are buffers, as detection networks have it; and a bare matrix."""

    def __init__(self, width: int):
        super().__init__()
        self.query = self.create_parameter([width, width + 1])
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, paddle.zeros([width]))
        self.register_buffer("scratch", paddle.zeros([1]), persistable=False)


class FrozenTorch(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.query = torch.nn.Parameter(torch.zeros(width, width + 1))
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(width))


class ScaledLinear(nn.Linear):
    def __init__(self, width: int):
        super().__init__(width, width)
        self.scale = self.create_parameter([width, width])


class OwnNorm(nn.BatchNorm2D):
    pass


def test_user_layers_are_bare_and_subclasses_are_their_base():
    round_trip(FrozenTorch(3), FrozenPaddle(3))
    theirs = torch.nn.Linear(2, 2)
    theirs.scale = torch.nn.Parameter(torch.zeros(2, 2))
    converted, _, report = plan(ScaledLinear(2)).to_paddle(state := random_state(theirs, 0))
    assert report.ok and np.array_equal(converted["weight"], state["weight"].T)
    assert np.array_equal(converted["scale"], state["scale"])
    round_trip(torch.nn.BatchNorm2d(3), OwnNorm(3))
    round_trip(torch.nn.BatchNorm2d(3), nn.SyncBatchNorm(3))


@pytest.mark.parametrize("layer", [nn.LSTM(2, 3), nn.SpectralNorm([3, 2]), nn.Bilinear(2, 3, 4)])
def test_a_layer_type_without_a_rule_is_an_error(layer):
    with pytest.raises(ConversionError, match=rf"^1\..*no rule.*{type(layer).__name__}"):
        plan(nn.Sequential(nn.ReLU(), layer))


def test_rename_and_ignore():
    theirs, ours = small_networks()
    round_trip(torch.nn.ModuleDict({"body": theirs}), ours, rename=[("^", "trunk."), ("^trunk", "body")])
    state = random_state(theirs, 0) | {"head.weight": normal(2), "head.bias": normal(2)}
    report = plan(ours, ignore=[r"^head\.weight$"]).to_paddle(state)[2]
    assert report.ignored == ["head.weight"] and report.unused == ["head.bias"] and not report.ok
    assert plan(ours, ignore=[r"^head\."]).to_paddle(state)[2].ok
    with pytest.raises(ConversionError, match="two tensors"):
        plan(ours, rename=[(r"^2\.", "0.")])


def test_report_names_everything_that_is_wrong():
    theirs, ours = small_networks()
    state = random_state(theirs, 0)
    state["0.weight"] = state["0.weight"].T  # a checkpoint that somebody transposed already
    del state["1.bias"]
    state["extra"] = normal(1)
    state["2.bias"] = state["2.bias"].astype(np.int32)
    state["2.weight"] = state["2.weight"].astype(np.float64) + 1e-12
    _, _, report = plan(ours).to_paddle(state)
    assert report.wrong_shape == [("0.weight", (4, 6), (6, 4))]
    assert report.missing == ["1.bias"] and report.unused == ["extra"]
    assert [row[0] for row in report.wrong_dtype] == ["2.weight", "2.bias"]
    with pytest.raises(ConversionError) as caught:
        report.raise_if_bad("some/file.pth")
    text = str(caught.value)
    assert text.startswith("some/file.pth: does not match this network")
    assert all(part in text for part in ("0.weight", "(4, 6)", "(6, 4)", "1.bias", "extra", "int32", "float64"))
    missing = plan(ours).to_torch(
        {"0.weight": normal(4, 6), "other": normal(1)}, {"7.num_batches_tracked": np.array(1)}
    )
    assert "0.bias" in missing[1].missing and missing[1].unused == ["other", "7.num_batches_tracked"]


def test_dtypes_that_keep_every_value_are_cast_and_said():
    theirs, ours = small_networks()
    state = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in random_state(theirs, 0).items()}
    converted, _, report = plan(ours).to_paddle(state)
    assert report.ok and len(report.widened) == 8 and converted["0.bias"].dtype == np.float32
    exact = {k: v.astype(np.float64) if v.dtype == np.float16 else v for k, v in state.items()}
    assert plan(ours).to_paddle(exact)[2].ok
    double = plan(ours.to(dtype="float64")).to_paddle(state)
    assert double[2].ok and all(v.dtype == np.float64 for v in double[0].values())


def test_counters_are_optional_and_come_back_as_zero():
    theirs, ours = small_networks()
    state = random_state(theirs, 0)
    del state["1.num_batches_tracked"]
    converted, torch_only, report = plan(ours).to_paddle(state)
    assert report.ok and torch_only == {}
    back, report = plan(ours).to_torch(converted)
    assert list(back) == list(theirs.state_dict()) and back["1.num_batches_tracked"] == 0
    assert back["1.num_batches_tracked"].dtype == np.int64 and "1 num_batches_tracked" in str(report)


@pytest.mark.parametrize("case", ["resnet34 in resnet18", "every section at once", "hostile names"])
def test_another_networks_checkpoint_is_one_screen(case):
    ours = paddle.vision.models.resnet18(num_classes=10)
    other = {k: np.zeros(s, np.float32) for k, s in plan(paddle.vision.models.resnet34()).torch_shapes().items()}
    if case == "every section at once":
        names = list(plan(ours).torch_shapes())
        other = {f"x{i}": normal(1) for i in range(90)} | {f"fc{i}": normal(1) for i in range(9)}
        other |= {name: normal(1) for name in names[:20]} | {"fc.bias": np.zeros(10, np.int32)}
    if case == "hostile names":
        other = {f"a\n\x1b[2J{i}" * 100: normal(1) for i in range(50)}
    text = str(plan(ours, ignore=["^fc[0-9]"]).to_paddle(other)[2])
    assert len(text.splitlines()) <= 40 and "another network" in text.splitlines()[0]
    assert f"of its {len(other)} tensors fit" in text.splitlines()[0]
    assert "more" in text and "\x1b" not in text and max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize(
    ("depth", "digest"),
    [
        (18, "f9ca36fd243f6401edce004bd2901d43861889cc03bdd21b76eec36567917b94"),
        (50, "9a95f3005602dac460f08e3fe9800de590bf2a7c7624ce25d6ba0f98a59229eb"),
    ],
)
def test_order_and_shapes_of_a_whole_network_are_the_official_ones(depth, digest):
    """sha256 of monodepth2_encoderDD_state_dict.tsv, listed from the official code: names, shapes, dtypes, in order."""
    network = getattr(paddle.vision.models, f"resnet{depth}")()
    lines = ""
    for entry in plan(network, rename=[("^", "encoder.")]).entries:
        lines += f"{entry.torch}\t{','.join(map(str, entry.shape))}\t{entry.dtype}\n"
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


class Tied(nn.Layer):
    """One head under two names, as the decoder of a detection network has it."""

    def __init__(self):
        super().__init__()
        self.heads = nn.LayerList([nn.Linear(3, 3)] * 2)


def test_shared_parameters():
    head = torch.nn.Linear(3, 3)
    tied = torch.nn.ModuleDict({"heads": torch.nn.ModuleList([head, head])})
    ours = Tied()
    network = plan(ours)
    state = {name: tensor.detach().numpy() for name, tensor in tied.state_dict().items()}
    converted, _, report = network.to_paddle(state)
    assert report.ok and list(converted) == list(ours.state_dict())
    assert equal_bits(network.to_torch(converted)[0], state)
    once, _, report = network.to_paddle({name: array for name, array in state.items() if name.startswith("heads.1")})
    assert report.ok and equal_bits(once, converted) and "heads.0.weight is absent" in str(report)
    report = network.to_paddle(state | {"heads.1.bias": normal(3)})[2]
    assert report.conflicting == ["heads.1.bias"] and not report.ok
    assert network.to_torch(converted | {"heads.1.bias": normal(3)})[1].conflicting == ["heads.1.bias"]


class Mixed(nn.Layer):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.MultiHeadAttention(4, 2), nn.Linear(4, 4)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class MixedTorch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(3, 4), torch.nn.MultiheadAttention(4, 2), torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.a(x).transpose(0, 1)
        return self.c(self.b(x, x, x)[0].transpose(0, 1))


def test_gradients_in_torchs_layout():
    theirs, ours = MixedTorch(), Mixed()
    round_trip(theirs, ours)
    x, weight = normal(2, 5, 3), normal(2, 5, 4)
    (theirs(torch.from_numpy(x)) * torch.from_numpy(weight)).sum().backward()
    (ours(paddle.to_tensor(x)) * paddle.to_tensor(weight)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    got = plan(ours).gradients_to_torch(gradients)
    assert list(got) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(got[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-4)  # keys' bias: 0
    assert list(plan(ours).gradients_to_torch({"a.bias": gradients["a.bias"]})) == ["a.bias"]
    with pytest.raises(ConversionError, match=r"b\.in_proj_weight.*b\.v_proj\.weight"):
        plan(ours).gradients_to_torch({f"b.{n}_proj.weight": gradients[f"b.{n}_proj.weight"] for n in "qk"})
    with pytest.raises(ConversionError, match="nowhere"):
        plan(ours).gradients_to_torch({"nowhere": normal(1)})
