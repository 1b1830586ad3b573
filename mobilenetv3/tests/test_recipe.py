"""Optimisers, schedules, averages, losses and metrics against figures of the official code (NOTES 9.5)."""

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.norms import BatchNorm2D

from average_checkpoints import average_checkpoints
from ema import ExponentialMovingAverage, adjusted_decay
from golden_files import train_files
from losses import CrossEntropyLoss, build_criterion
from metrics import MetricLogger, SmoothedValue, accuracy
from optimizers import RMSprop, build_optimizer, build_scheduler, clip_gradients
from options import parse_options
from reference import training as reference

FILES = [pytest.param(file, id=name) for name, file in train_files()]
DTYPES = [pytest.param("float32", "", 1e-5, id="float32"), pytest.param("float64", "64", 1e-6, id="float64")]

TOYS = {
    "rmsprop_flat": lambda p: RMSprop(0.1, 0.9, 0.0316, 0.9, parameters=p, weight_decay=1e-2),
    "rmsprop_broken": lambda p: RMSprop(0.1, 0.9, 0.0316, 0.9, parameters=p, weight_decay=1e-2),
    "rmsprop_plain": lambda p: RMSprop(0.1, parameters=p),
    "rmsprop_centered": lambda p: RMSprop(0.1, 0.9, 0.0316, 0.5, centered=True, parameters=p),
    "sgd_broken": lambda p: paddle.optimizer.Momentum(0.1, 0.9, parameters=p, weight_decay=1e-2),
    "sgd_nesterov": lambda p: paddle.optimizer.Momentum(0.1, 0.9, parameters=p, weight_decay=1e-2, use_nesterov=True),
}


@pytest.mark.parametrize(("dtype", "suffix", "limit"), DTYPES)
@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("file", FILES)
def test_optimisers(file, toy, dtype, suffix, limit):
    start = paddle.nn.initializer.Assign(file[f"toy/{toy}/start"].astype(dtype))
    weight = paddle.create_parameter([len(file[f"toy/{toy}/start"])], dtype, default_initializer=start)
    optimizer = TOYS[toy]([weight])
    path = []
    for gradient, rate in zip(file[f"toy/{toy}/gradient"], file[f"toy/{toy}/lr"], strict=True):
        (weight * paddle.to_tensor(gradient.astype(dtype))).sum().backward()
        optimizer.set_lr(float(rate))
        optimizer.step()
        optimizer.clear_grad()
        path.append(weight.numpy())
    np.testing.assert_allclose(path, file[f"toy/{toy}/path{suffix}"], rtol=0, atol=limit)


SCHEDULES = {
    "lr": "--lr 0.064 --epochs 600 --lr_step_size 2 --lr_gamma 0.973",
    "tutorial_lr": "--lr 0.8 --epochs 120",
    "new_recipe_lr": "--lr 0.5 --lr_scheduler cosineannealinglr --epochs 600 --lr_warmup_epochs 5 "
    "--lr_warmup_method linear",
    "exponential_lr": "--lr 0.1 --lr_scheduler exponentiallr --lr_gamma 0.9 --epochs 20 --lr_warmup_epochs 3",
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("file", FILES)
def test_schedules(file, schedule):
    expected = file[f"schedule/{schedule}"]
    options = parse_options(SCHEDULES[schedule].split())
    scheduler = build_scheduler(options)
    rates = []
    for _ in expected:
        rates.append(scheduler())
        scheduler.step()
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("argv", ["--lr_warmup_epochs 2", "--lr_warmup_epochs 2 --lr_scheduler cosineannealinglr"])
def test_a_schedule_goes_on_after_a_restart(argv):
    """The trainer rebuilds it and steps to its epoch."""
    options = parse_options(f"--epochs 8 --lr_step_size 3 {argv}".split())
    scheduler = build_scheduler(options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    twin = reference.build_scheduler(optimizer, options)
    for epoch in range(8):
        again = build_scheduler(options)
        for _ in range(epoch):
            again.step()
        assert again() == scheduler() == pytest.approx(twin.get_last_lr()[0], abs=1e-12)
        scheduler.step()
        optimizer.step()
        twin.step()


def network_of_two() -> tuple:
    """A Paddle and a torch network with equal weights: norm, bias and plain weight in each."""
    paddle.seed(5)
    port = paddle.nn.Sequential(paddle.nn.Linear(4, 3), BatchNorm2D(3))
    twin = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm2d(3))
    for a, b in zip(port[0].parameters(), twin[0].parameters(), strict=True):
        b.data = torch.tensor(a.numpy().T)
    port.to(dtype="float64")
    return port, twin.double()


@pytest.mark.parametrize(
    ("argv", "decays"),
    [
        ("--opt sgd --weight_decay 0.1", (0.1, 0.1, 0.1)),
        ("--opt rmsprop --weight_decay 0.1 --norm_weight_decay 0", (0.1, 0.1, 0.0)),
        ("--opt sgd_nesterov --weight_decay 0.1 --norm_weight_decay 0 --bias_weight_decay 0.3", (0.1, 0.3, 0.0)),
        ("--opt adamw --weight_decay 0.1 --bias_weight_decay 0", (0.1, 0.0, 0.1)),
    ],
)
def test_decay_groups(argv, decays):
    """Weights, biases and norms decay as asked: three steps equal torch's with the groups written out."""
    port, twin = network_of_two()
    options = parse_options(["--lr", "0.05", *argv.split()])
    optimizer = build_optimizer(port, options, options.lr)
    groups = [[twin[0].weight], [twin[0].bias], list(twin[1].parameters())]
    kinds = {
        "sgd": lambda g: torch.optim.SGD(g, 0.05, 0.9),
        "sgd_nesterov": lambda g: torch.optim.SGD(g, 0.05, 0.9, nesterov=True),
        "rmsprop": lambda g: torch.optim.RMSprop(g, 0.05, 0.9, 0.0316, momentum=0.9),
        "adamw": lambda g: torch.optim.AdamW(g, 0.05),
    }
    other = kinds[options.opt]([{"params": p, "weight_decay": d} for p, d in zip(groups, decays, strict=True)])
    x, weights = np.random.default_rng(0).standard_normal((2, 6, 4))
    for _ in range(3):
        y = port[0](paddle.to_tensor(x))
        (
            (port[1](y.reshape([6, 3, 1, 1])).flatten(1) * paddle.to_tensor(weights[:, :3])).sum() + (y**2).mean()
        ).backward()
        optimizer.step()
        optimizer.clear_grad()
        y = twin[0](torch.from_numpy(x))
        (
            (twin[1](y.reshape(6, 3, 1, 1)).flatten(1) * torch.from_numpy(weights[:, :3])).sum() + (y**2).mean()
        ).backward()
        other.step()
        other.zero_grad()
    pairs = zip([*port[0].parameters(), port[1].weight, port[1].bias], twin.parameters(), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy().T, b.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_clipping_takes_all_gradients_together():
    port, twin = network_of_two()
    x = np.random.default_rng(1).standard_normal((6, 4))
    for limit in (0.5, 1e6):
        (port[0](paddle.to_tensor(x)) ** 2).sum().backward()
        (twin[0](torch.from_numpy(x)) ** 2).sum().backward()
        clip_gradients(port.parameters(), limit)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), limit)
        for a, b in zip(port[0].parameters(), twin[0].parameters(), strict=True):
            np.testing.assert_allclose(a.grad.numpy().T, b.grad.numpy(), rtol=1e-5)
        port.clear_gradients()
        twin.zero_grad()


@pytest.mark.parametrize("file", FILES)
def test_moving_average(file):
    """The golden series: weight and running variance of a norm of three channels, and an integer buffer."""

    class Holder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm = BatchNorm2D(3)
            self.register_buffer("count", paddle.zeros([1], "int64"))

    model, average = Holder(), ExponentialMovingAverage(Holder(), float(file["ema/decay"]))
    found = []
    for step, row in enumerate(file["ema/model"]):
        model.norm.weight.set_value(row[:3].astype(np.float32))
        model.norm._variance.set_value(row[3:6].astype(np.float32))
        model.count.set_value(row[6:].astype(np.int64))
        average.update(model)
        norm = average.average.norm
        found.append(np.concatenate([norm.weight.numpy(), norm._variance.numpy(), average.average.count.numpy()]))
        if step < 2:
            average.count = 0
    np.testing.assert_allclose(found, file["ema/average"], rtol=1e-6, atol=1e-6)
    for world, batch, steps, epochs, decay, expected in file["ema/decay_table"]:
        assert adjusted_decay(decay, int(world), int(batch), int(steps), int(epochs)) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("file", FILES)
def test_average_of_checkpoints(file):
    count = len({key.split("/")[1] for key in file.files if key.startswith("checkpoint/") and "average" not in key})
    states = [{name: file[f"checkpoint/{i}/{name}"] for name in "whn"} for i in range(count)]
    averaged = average_checkpoints(states)
    for name in "whn":
        expected = file[f"checkpoint/average/{name}"]
        assert averaged[name].dtype == expected.dtype
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-6)
    with pytest.raises(InputError, match="differ"):
        average_checkpoints([states[0], {"w": states[0]["w"]}])


LOSSES = {
    "plain": ("target", 0.0),
    "smoothing_0.1": ("target", 0.1),
    "soft": ("soft", 0.0),
    "soft_smoothing_0.1": ("soft", 0.1),
}


@pytest.mark.parametrize(("dtype", "suffix", "limit"), DTYPES)
@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("file", FILES)
def test_losses(file, case, dtype, suffix, limit):
    kind, smoothing = LOSSES[case]
    target = file["metric/target"] if kind == "target" else file["loss/soft_target"].astype(dtype)
    logits = paddle.to_tensor(file["metric/logits"].astype(dtype), stop_gradient=False)
    terms = build_criterion(parse_options(["--label_smoothing", str(smoothing)]))(logits, paddle.to_tensor(target))
    terms["loss"].backward()
    assert terms.keys() == {"cross_entropy", "loss"}
    bound = {"float32": 1e-6, "float64": 1e-8}[dtype]
    assert float(terms["loss"]) == pytest.approx(float(file[f"loss{suffix}/{case}"]), rel=bound)
    np.testing.assert_allclose(logits.grad.numpy(), file[f"loss{suffix}/{case}_grad"], rtol=1e-4, atol=limit / 10)


def test_edge_cases_of_the_loss():
    """Rows to ignore, and logits so far apart that Paddle's own log_softmax cuts them off at -64."""
    x = np.array([[0.0, 900.0, -900.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    for target in ([2, -100, 1], [0, 1, 2], [-100, -100, -100]):
        for smoothing in (0.0, 0.1):
            a = paddle.to_tensor(x, stop_gradient=False)
            b = torch.tensor(x, requires_grad=True)
            loss = CrossEntropyLoss(smoothing)(a, paddle.to_tensor(target))["loss"]
            expected = torch.nn.functional.cross_entropy(b, torch.tensor(target), label_smoothing=smoothing)
            loss.backward()
            expected.backward()
            np.testing.assert_allclose(float(loss), expected.item(), rtol=1e-12)
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-12)
    with pytest.raises((IndexError, ValueError)):
        CrossEntropyLoss()(paddle.to_tensor(x), paddle.to_tensor([0, 1, 3]))


@pytest.mark.parametrize("file", FILES)
def test_metrics(file):
    logits, target = file["metric/logits"], file["metric/target"]
    np.testing.assert_allclose(accuracy(logits, target), file["metric/top1_top5"], atol=1e-6)
    np.testing.assert_allclose(accuracy(logits, target, (1, 3)), file["metric/top1_top3"], atol=1e-6)
    np.testing.assert_allclose(reference.topk_accuracy(torch.tensor(logits), torch.tensor(target), (1, 5)),
                               file["metric/top1_top5"], atol=1e-6)  # fmt: skip

    meters = MetricLogger()
    for rows in np.split(np.arange(len(target)), [7, 14]):
        loss = CrossEntropyLoss()(paddle.to_tensor(logits[rows]), paddle.to_tensor(target[rows]))["loss"]
        acc1, acc5 = accuracy(logits[rows], target[rows])
        meters.update(loss=float(loss))
        meters.update(len(rows), acc1=acc1, acc5=acc5)
    averages = [meters.meters[name].global_avg for name in ("acc1", "acc5", "loss")]
    np.testing.assert_allclose(averages, file["metric/batches_7_7_3"], atol=1e-6)
    assert meters.line() == str(file["metric/log_line"])

    meter = SmoothedValue(4)
    for value in file["metric/meter_series"]:
        meter.update(float(value))
    median, _, global_avg, *_ = file["metric/meter"]
    np.testing.assert_allclose([meter.median, meter.global_avg], [median, global_avg], atol=1e-6)


def test_soft_targets_count_their_largest_entry():
    logits = np.array([[1.0, 3.0, 2.0], [9.0, 0.0, 1.0]])
    soft = np.array([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    assert accuracy(logits, soft, (1, 2)) == [50.0, 100.0]
    assert accuracy(logits, np.array([0, 1])) == [0.0, 100.0]  # fewer classes than five
