"""The network, its losses and its training against figures of the official code, in both dtypes (NOTES 9)."""

from dataclasses import asdict

import numpy as np
import paddle
import pytest
import torch
from paddle.vision.ops import roi_align

import golden_files
from datasets import Batch, build_dataset, collate
from decoding import decode_detections, extract_dets_from_outputs, result_lines
from engine import build_training, measure_losses, train_step
from golden_files import below, check_lines, check_parts, golden, lay_out, near, statistics
from losses import TERMS, HierarchicalTaskLearning, build_criterion
from losses import criterion as functions
from models import find_peaks, local_maxima, probabilities
from networks import SUFFIX, batch_of, gradients, network, official_state, run, run_recorded
from optimizers import EpochSchedule, build_optimizer
from options import parse_options
from reference import evaluation, roi
from reference import losses as twin_losses
from reference import training as twin_training
from reference.network import build_reference

DTYPES = ("float32", "float64")
ROI_OUTPUTS = ("depth", "offset_3d", "size_3d", "heading", "h3d_log_variance")

TOLERANCES = {  # NOTES 9.2: of outputs in test mode, of depth there, of outputs in training mode
    "float32": {"test": 5e-4, "depth": 2e-3, "train": 5e-4, "parts": 5e-4},
    "float64": {"test": 1e-8, "depth": 1e-8, "train": 1e-9, "parts": 1e-8},
}


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tested(dtype):
    """(outputs, parts) of the mode "test"."""
    model = network("model", dtype)
    model.eval()
    with paddle.no_grad():
        return run_recorded(model, batch_of("model", dtype), "test")


@pytest.fixture(scope="module")
def trained(dtype):
    """(network, batch, outputs, parts) of the mode "train"."""
    model, batch = network("model", dtype), batch_of("model", dtype)
    return model, batch, *run_recorded(model, batch, "train")


def figures(part: str, folder: str, dtype: str, prefix: str = "") -> dict[str, np.ndarray]:
    """{name: figure} of `<folder>[64]/<prefix><name>`."""
    return below(part, f"{folder}{SUFFIX[dtype]}/{prefix}")


# ------------------------------------------------------------------------------------------------ the network


def check_outputs(outputs: dict, dtype: str, mode: str, what: str) -> None:
    expected = {name: value for name, value in figures("model", "output", dtype, f"{what}_").items() if name in outputs}
    limits = TOLERANCES[dtype]
    assert set(ROI_OUTPUTS) <= set(expected)
    for name, value in expected.items():
        limit = limits["depth"] if name == "depth" and mode == "test" else limits[mode]
        near(outputs[name].numpy(), value, limit, name)


def test_outputs_in_test_mode(tested, dtype):
    """And those of the mode "val", which are the same."""
    check_outputs(tested[0], dtype, "test", "test")
    if dtype == "float32":
        model = network("model", dtype)
        model.eval()
        with paddle.no_grad():
            outputs = run(model, batch_of("model", dtype), "val")
        assert all((outputs[name] == value).all() for name, value in tested[0].items())


def test_outputs_in_training_mode(trained, dtype):
    check_outputs(trained[2], dtype, "train", "train")


@pytest.mark.parametrize("mode", ["test", "train"])
def test_parts(tested, trained, dtype, mode):
    """Levels of the backbone, the neck, and the features of the RoIs."""
    check_parts({"test": tested[1], "train": trained[3]}[mode], mode, SUFFIX[dtype], TOLERANCES[dtype]["parts"])


def test_peaks_and_decoder_rows(tested, dtype):
    peaks = find_peaks(tested[0]["heatmap"], 50)
    expected = figures("model", "output", dtype, "test_peak_")
    np.testing.assert_array_equal(peaks.cells.numpy(), expected["index"])
    np.testing.assert_array_equal(peaks.classes.numpy(), expected["class"])
    near(peaks.scores.numpy(), expected["score"], TOLERANCES[dtype]["test"])
    rows = extract_dets_from_outputs(tested[0]).numpy()
    near(rows, figures("model", "post", dtype)["dets"], TOLERANCES[dtype]["depth"])


# ------------------------------------------------------------------------------------- losses and gradients


def check_terms(terms: dict, expected: dict, limit: float) -> None:
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=limit), name


def test_losses_and_gradients(trained, dtype):
    model, batch, outputs, _ = trained
    expected = figures("model", "loss", dtype)
    limit, gradient_limit = (1e-4, 2e-2) if dtype == "float32" else (1e-10, 1e-6)
    terms = build_criterion()(outputs, batch.targets)
    check_terms(terms, {name: expected[name] for name in TERMS} | {"loss": expected["total"]}, limit)
    terms["loss"].backward()
    found, norms = gradients(model), below("model", f"grad{SUFFIX[dtype]}_norm/")
    assert set(found) == set(norms)
    parameters = {name for name, _ in model.named_parameters() if not name.endswith(("._mean", "._variance"))}
    assert parameters - set(found) == set(golden("model")["meta/no_grad"].tolist())
    dead = {f"{name}.0.bias" for name in ("depth", "offset_3d", "size_3d", "heading")}  # a norm follows
    for name, norm in norms.items():
        own = np.linalg.norm(found[name].astype(np.float64))
        if name in dead:
            assert abs(own - norm) <= (1e-5 if dtype == "float32" else 1e-12), name
        else:
            assert own == pytest.approx(float(norm), rel=gradient_limit), name


@pytest.mark.parametrize("case", ["one", "none"])
def test_a_single_object_and_none(dtype, case):
    model, batch = network("model", dtype), batch_of("model", dtype)
    mask, heatmap = batch.targets["mask_2d"].numpy(), batch.targets["heatmap"].numpy()
    if case == "one":
        first = np.flatnonzero(mask[-1])[0]
        mask[:], mask[-1, first] = 0, 1
    else:
        mask[:], heatmap = 0, heatmap.clip(max=0.9)
    targets = batch.targets | {"mask_2d": paddle.to_tensor(mask), "heatmap": paddle.to_tensor(heatmap)}
    outputs = run(model, batch._replace(targets=targets), "train")
    check_outputs(outputs, dtype, "train", case)
    limit = 1e-4 if dtype == "float32" else 1e-10
    terms = build_criterion()(outputs, targets)
    check_terms(terms, figures("model", "loss", dtype, f"{case}_"), limit)
    nan = {name for name in TERMS if np.isnan(float(terms[name]))}
    assert nan == (set(golden("model")["meta/none_nan_terms"].tolist()) if case == "none" else set())


@pytest.mark.parametrize("rate", ["train", "train_peak"])
def test_five_steps(dtype, rate):
    """Losses before each step, and tensors after the last: at the first epoch's rate, and at the peak's."""
    model, batch = network("model", dtype), batch_of("model", dtype)
    expected = figures("model", rate, dtype)
    optimizer = build_optimizer(model, parse_options([]), float(golden("model")[f"{rate}/lr"]))
    limits = {
        ("float32", "train"): [1e-3, 1e-3, 2e-2, 2e-2, 2e-2],
        ("float64", "train"): [1e-6] * 5,
        ("float32", "train_peak"): [1e-2, 1e-2],  # later ones diverge
        ("float64", "train_peak"): [1e-5, 1e-5, 1e-5, 1e-2, 1e-2],
    }[dtype, rate]
    for step, limit in enumerate(limits):
        terms = build_criterion()(run(model, batch, "train"), batch.targets)
        wanted = {name: expected[name][step] for name in (*TERMS, "loss")}
        if (dtype, rate) == ("float32", "train"):
            # the depth's rounding grows with every step: 5.7 % at the fifth with one of MKL's kernels, 1.8 % with
            # another, and the official float32 is 1.2 % from its own float64 at the third; float64 agrees to 3e-9
            check_terms(terms, {"depth_loss": wanted.pop("depth_loss")}, limit if step < 3 else 1.5e-1)
        if (dtype, rate) == ("float32", "train_peak"):
            # their sum is held to the limit; single terms are up to 1.7 % off at the second step (size3d_loss; 1.1 %
            # with MKL's other kernels), where the official float32 is 1.0 % from its own float64
            check_terms(terms, {"loss": wanted["loss"]}, limit)
            limit *= 1 if step == 0 else 4
        check_terms(terms, wanted, limit)
        terms["loss"].backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    if len(limits) == 5:
        state = official_state(model)
        for name, size in below("model", f"{rate}{SUFFIX[dtype]}/param_abs_sum/").items():
            limit = limits[-1] * float(size)
            assert abs(state[name].sum() - expected[f"param_sum/{name}"]) <= limit, name
            assert abs(np.abs(state[name]).sum() - size) <= limit, name


# ------------------------------------------------------------------------------------------ training as it is run


def test_nine_epochs_of_the_official_trainer(dtype):
    """The pass before the training, weights of the tasks, rates, two groups, and nine epochs of two batches."""
    expected = figures("trainer", "train", dtype)
    terms = golden("trainer")["meta/terms"].tolist()
    training, tasks = build_training(network("trainer", dtype), parse_options([])), HierarchicalTaskLearning()
    batches = [batch_of("trainer", dtype, f"input/{i}/", f"image{i}") for i in (0, 1)]
    losses = [measure_losses(training, batch) for batch in batches]
    rows = 3 if dtype == "float32" else len(expected["loss"])  # official float32 and float64 part after that
    for epoch in range(rows):
        limit = 2e-2 if dtype == "float32" else 1e-6 if epoch < 7 else 1e-2
        means = {term: (losses[0][term] + losses[1][term]) / 2 for term in terms}
        np.testing.assert_allclose(list(means.values()), expected["loss"][epoch], rtol=limit)
        weights = tasks.compute_weight(means, epoch)
        near([weights[term] for term in terms], expected["weight"][epoch], limit)
        training.schedule.step(epoch)
        rate = training.optimizer.get_lr()
        assert rate == pytest.approx(float(golden("trainer")["train/lr"][epoch, 0]), rel=1e-12)
        losses = [train_step(training, batch, weights) for batch in batches]
    if dtype == "float64":
        state = official_state(training.model)
        for name, value in below("trainer", "train64/param_sum/").items():
            assert abs(state[name].sum() - value) <= 1e-5 * np.abs(state[name]).sum(), name  # measured: 2e-8


def test_groups_of_the_optimiser():
    optimizer = build_optimizer(network("model", "float32"), parse_options([]), 1e-3)
    groups = optimizer._param_groups
    assert [len(group["params"]) for group in groups] == golden("model")["meta/optimizer_groups"].tolist()
    groups = twin_training.parameter_groups(build_reference(None), parse_options([]))
    assert [len(group["params"]) for group in groups] == golden("model")["meta/optimizer_groups"].tolist()
    assert [group["weight_decay"] for group in groups] == golden("model")["meta/optimizer_weight_decay"].tolist()


@pytest.mark.parametrize("argv, key", [("", "lr"), ("--warmup no", "lr_no_warmup")])
def test_learning_rates(argv, key):
    schedule = EpochSchedule(parse_options(argv.split()))
    rates = [(schedule.step(epoch), schedule())[1] for epoch in range(140)]
    for own in (rates, twin_training.rates(parse_options(argv.split()))):
        np.testing.assert_allclose(own, golden("schedule")[f"schedule/{key}"], rtol=1e-12)


def test_learning_rates_as_the_list_reads():
    """Drops at 90 and 120, warm-up or not."""
    rates = []
    for argv in (["--decay_start", "first_epoch"], ["--decay_start", "first_epoch", "--warmup", "no"]):
        schedule = EpochSchedule(parse_options(argv))
        rates.append([(schedule.step(epoch), schedule())[1] for epoch in range(140)])
    np.testing.assert_allclose(rates[1], golden("schedule")["schedule/lr_no_warmup"], rtol=1e-12)
    assert rates[0][5:] == rates[1][5:] and rates[0][0] == 1e-5


@pytest.mark.parametrize("series", ["smooth", "noisy", "rising"])
def test_weights_of_the_tasks(series):
    terms, tasks = golden("schedule")["meta/terms"].tolist(), HierarchicalTaskLearning()
    expected, weights, twins = below("schedule", f"schedule/{series}/"), [], []
    twin = twin_training.HierarchicalTaskLearning()
    for epoch, losses in enumerate(expected["losses"]):
        found, theirs = (own.compute_weight(dict(zip(terms, losses, strict=True)), epoch) for own in (tasks, twin))
        weights.append([found[term] for term in terms])
        twins.append([theirs[term] for term in terms])
        tasks = HierarchicalTaskLearning(**asdict(tasks))  # as after a resume
    assert list(found) == expected["weight_key_order"].tolist()
    np.testing.assert_allclose(weights, expected["weights"], rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(twins, expected["weights"], rtol=1e-5, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("threshold", ["0.2", "0"])
def test_decoder(dtype, threshold):
    given, limit = below("post", "input/"), 1e-4 if dtype == "float32" else 1e-9
    outputs = {name: paddle.to_tensor(value.astype(dtype)) for name, value in given.items() if name in OUTPUTS}
    before = outputs["heatmap"].clone()
    rows = extract_dets_from_outputs(outputs).numpy()
    assert (outputs["heatmap"] == before).all()
    expected = figures("post", "post", dtype)
    near(rows, expected["dets"], limit)
    info = {name: given[name] for name in ("img_id", "bbox_downsample_ratio")}
    found = decode_detections(rows, info, [given["P2/0"], given["P2/1"]], float(threshold))
    for frame in given["img_id"].tolist():
        near(found[frame], expected[f"decoded_{threshold}/{frame}"], limit)
        check_lines(result_lines(found[frame]), expected[f"lines_{threshold}/{frame}"])
    twins = evaluation.extract({name: torch.from_numpy(value.numpy()) for name, value in outputs.items()})
    near(twins, expected["dets"], limit)
    for k, frame in enumerate(given["img_id"].tolist()):
        given_frame = twins[k].numpy(), given["bbox_downsample_ratio"][k], given[f"P2/{k}"]
        decoded = evaluation.decode(*given_frame, float(threshold))
        near(decoded, expected[f"decoded_{threshold}/{frame}"], limit)
        check_lines(evaluation.lines(decoded), expected[f"lines_{threshold}/{frame}"])


OUTPUTS = ("heatmap", "size_2d", "offset_2d", "heading", "depth", "size_3d", "offset_3d")


def test_peak_search(dtype):
    heat = probabilities(paddle.to_tensor(golden("post")["input/heatmap"].astype(dtype)))
    expected, limit = figures("post", "post", dtype), 1e-4 if dtype == "float32" else 1e-9
    assert int((local_maxima(heat) > 0).sum()) == int(expected["nms_count"])
    peaks = find_peaks(paddle.to_tensor(golden("post")["input/heatmap"].astype(dtype)), 50)
    near(peaks.scores.numpy(), expected["topk_score"], limit)
    np.testing.assert_array_equal(peaks.cells.numpy(), expected["topk_index"])
    np.testing.assert_array_equal(peaks.classes.numpy(), expected["topk_class"])
    rows, columns = np.divmod(peaks.cells.numpy(), heat.shape[3])
    np.testing.assert_array_equal(columns, expected["topk_y"])  # the official code's names of the two
    np.testing.assert_array_equal(rows, expected["topk_x"])


# ----------------------------------------------------------------------------------------------------------- units


def unit(name: str, dtype: str, to_tensor=paddle.to_tensor):
    """An input of the figures "units", for the twin with torch.from_numpy."""
    return to_tensor(golden("units")[f"input/{name}"].astype(dtype))


def check_unit(value, name: str, dtype: str) -> None:
    expected = golden("units")[f"output{SUFFIX[dtype]}/{name}"]
    assert float(value) == pytest.approx(float(expected), rel=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("target", ["focal_target", "focal_target_empty"])
def test_focal_loss(dtype, target):
    y = unit(target, dtype)
    total = functions.focal(unit("focal_prob", dtype), y)
    check_unit(total / max(int((y == 1).sum()), 1), target.replace("_target", ""), dtype)
    twins = twin_losses.focal(*(unit(name, dtype, torch.from_numpy) for name in ("focal_prob", target)))
    check_unit(twins, target.replace("_target", ""), dtype)


def test_laplace_loss(dtype):
    values = [unit(f"laplace_{name}", dtype)[:, 0] for name in ("pred", "target", "logvar")]
    check_unit(functions.laplace(*values).mean(), "laplace", dtype)
    check_unit(twin_losses.laplace(*(torch.from_numpy(value.numpy()) for value in values)), "laplace", dtype)


def test_heading_loss(dtype):
    slots = np.nonzero(golden("units")["input/heading_mask"])
    bins = paddle.to_tensor(golden("units")["input/heading_bin"][slots][:, 0])
    residuals = paddle.to_tensor(golden("units")["input/heading_res"][slots][:, 0].astype(dtype))
    given = unit("heading_pred", dtype), bins, residuals
    check_unit(functions.heading(*given).mean(), "heading_loss", dtype)
    check_unit(twin_losses.heading_terms(*(torch.from_numpy(value.numpy()) for value in given)), "heading_loss", dtype)


def test_roi_align(dtype):
    """Paddle's operator as the network calls it, on inverted and on outside boxes too."""
    boxes = golden("units")["input/rois"]
    counts = paddle.to_tensor(np.bincount(boxes[:, 0].astype(int), minlength=2), "int32")
    maps, corners = unit("roi_maps", dtype), paddle.to_tensor(boxes[:, 1:].astype(dtype))
    found = roi_align(maps, corners, counts, 7, 1.0, -1, aligned=False)
    twins = roi.roi_align(unit("roi_maps", dtype, torch.from_numpy), unit("rois", dtype, torch.from_numpy))
    for own in (found, twins):
        expected = golden("units")[f"output{SUFFIX[dtype]}/roi_align"]
        near(own.numpy(), expected, 1e-4 if dtype == "float32" else 1e-10)


# ---------------------------------------------------------------------------------- real frames, at the full size

if golden_files.DATA:

    @pytest.fixture(scope="module")
    def real_frames(tmp_path_factory, dtype) -> Batch:
        """The two frames through our data set."""
        root = lay_out(tmp_path_factory.mktemp("kitti"), "full")
        dataset = build_dataset(parse_options(["--data_path", str(root)]), "val")
        batch = collate([dataset[index] for index in range(len(dataset))])
        near(statistics(batch.images.numpy()), golden("full")["input/image_stats"], 1e-6)
        cast = {name: getattr(batch, name).astype(dtype) for name in ("images", "calibs", "coord_ranges")}
        return batch._replace(**cast)

    def test_real_frames_in_test_mode(real_frames, dtype):
        model = network("full", dtype)
        model.eval()
        with paddle.no_grad():
            inputs = (real_frames.images[:1], real_frames.coord_ranges[:1], real_frames.calibs[:1])
            outputs = model(*inputs, mode="test")
        expected, limit = figures("full", "output", dtype, "test_"), 5e-4 if dtype == "float32" else 1e-7
        depth_limit = 5e-3 if dtype == "float32" else 1e-7
        order = order_of_peaks(find_peaks(outputs["heatmap"], 50), expected)
        for name in ("heatmap", "offset_2d", "size_2d"):
            near(outputs[name][:, :, ::4, ::4].numpy(), expected[f"{name}_slice"], limit, name)
            near(statistics(outputs[name].numpy()), expected[f"{name}_stats"], limit, name)
        for name in ROI_OUTPUTS:
            near(outputs[name].numpy()[order], expected[name], depth_limit if name == "depth" else limit, name)
        rows = extract_dets_from_outputs(outputs).numpy()
        near(rows[0][order], figures("full", "post", dtype)["dets"][0], depth_limit)
        info = {name: value[:1] for name, value in real_frames.info.items()}
        for threshold in ("0", "0.2"):
            found = decode_detections(rows[:, order], info, real_frames.calibs[:1].numpy(), float(threshold))
            lines = figures("full", "post", dtype)[f"lines_threshold_{threshold}"]
            check_lines(result_lines(found[int(info["img_id"][0])]), lines)

    def order_of_peaks(peaks, expected: dict) -> np.ndarray:
        """Where each of the official peaks stands among ours: some scores are 2e-5 apart, and may swap."""
        own = list(zip(peaks.classes[0].tolist(), peaks.cells[0].tolist(), strict=True))
        wanted = zip(expected["peak_class"][0].tolist(), expected["peak_index"][0].tolist(), strict=True)
        order = np.array([own.index(peak) for peak in wanted])
        assert np.abs(order - np.arange(len(order))).max() <= 1
        return order

    def test_losses_of_real_frames(real_frames, dtype):
        model = network("full", dtype)
        with paddle.no_grad():
            terms = build_criterion()(run(model, real_frames, "train"), real_frames.targets)
        expected = figures("full", "loss", dtype)
        wanted = {name: expected[name] for name in TERMS} | {"loss": expected["total"]}
        check_terms(terms, wanted, 2e-3 if dtype == "float32" else 1e-7)
