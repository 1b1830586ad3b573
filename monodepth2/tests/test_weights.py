"""convert.py and export.py: official folders to Paddle and back, ImageNet weights, and what is refused."""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch

from shared import InputError
from shared.align.formula import formula_state
from shared.deploying.export import inference_engine, onnx_engine
from shared.weights import WeightFile, read_weights, save_checkpoint, write_pdparams

import convert
import export
from data_sets import Bomb
from golden_files import official_shapes
from models import build_model
from models.resnet_encoder import ResnetEncoder
from options import NETWORK_OPTIONS, parse_options
from reference.network import build_reference
from reference.resnet import BLOCKS, ResNet

Shapes = dict[str, dict[str, tuple[int, ...]]]

# ------------------------------------------------------------------------------------ Official folders


def listed(listings: dict[str, str], layers: int = 18, **changes: tuple[int, ...] | None) -> Shapes:
    """{sub-network: {official name: shape}} by the listings, but for `changes` to "<sub-network>/<name>"."""
    shapes = {part: dict(official_shapes(listing, layers)) for part, listing in listings.items()}
    for place, shape in changes.items():
        part, name = place.split("/")
        if shape is None:
            del shapes[part][name]
        else:
            shapes[part][name] = shape
    return shapes


def scales(*widths: int) -> dict[str, tuple[int, ...] | None]:
    """Changes to the decoder's listing, which is that of four scales: convolutions of these widths alone."""
    changes = {}
    for index in range(4):
        width = widths[index] if index < len(widths) else None
        changes[f"depth/decoder.{10 + index}.conv.weight"] = width and (1, width, 3, 3)
        changes[f"depth/decoder.{10 + index}.conv.bias"] = width and (1,)
    return changes


def listings(*names: str, **others: str) -> dict[str, str]:
    return {name: name for name in ("encoder", "depth", *names)} | others


STEREO = listed(listings())
CASES = {  # what stands in a folder: (use_stereo, its tensors, what convert.py finds out about them)
    "separate_resnet": (True, listed(listings("pose_encoder", "pose")), {"pose_model_type": "separate_resnet"}),
    "resnet50": (True, listed(listings(), 50), {"num_layers": 50, "frame_ids": [0]}),
    "posecnn": (False, listed(listings("predictive_mask", pose="posecnn2")), {"predictive_mask": True}),
    "posecnn_all": (True, listed(listings(pose="posecnn3"), **scales(128, 16)), {"scales": [3, 0]}),
    "shared": (False, listed(listings(pose="pose_shared"), **scales(16)), {"scales": [0]}),
}


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> OrderedDict:
    """Formula weights; the counters have counted."""
    state = formula_state(shapes, seed)
    counted = {name: np.array(4321) for name in state if name.endswith("num_batches_tracked")}
    return OrderedDict((name, torch.from_numpy(array)) for name, array in (state | counted).items())


def write_folder(folder: Path, shapes: Shapes, use_stereo: bool) -> Path:
    """A folder as the reference writes it after an epoch."""
    folder.mkdir(parents=True)
    for seed, (part, names) in enumerate(shapes.items()):
        state = drawn(names, seed)
        if part == "encoder":
            state.update(height=64, width=96, use_stereo=use_stereo)
        torch.save(state, folder / f"{part}.pth")
    torch.save({"state": {}, "param_groups": [{"lr": 1e-4}]}, folder / "adam.pth")
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """Stereo weights: an encoder and a depth decoder."""
    return write_folder(tmp_path_factory.mktemp("official") / "stereo_96x64", STEREO, True)


@pytest.fixture(scope="module")
def converted(official) -> Path:
    """The same as `.pdparams`, by the command line."""
    command = [sys.executable, convert.__file__, str(official), "stereo.pdparams"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=official.parent)
    assert finished.returncode == 0, finished.stderr
    assert "ResNet-18, 96x64: torch to Paddle: all" in finished.stdout and "wrote stereo.pdparams" in finished.stdout
    return official.parent / "stereo.pdparams"


def linked(official: Path, folder: Path) -> Path:
    """The same folder again, for to replace a file in it."""
    shutil.copytree(official, folder, copy_function=os.link)
    return folder


def replaced(folder: Path, part: str, **changes) -> Path:
    """`folder` with entries of `<part>.pth` changed, or taken out where None."""
    state = torch.load(folder / f"{part}.pth", weights_only=True)
    for name, value in changes.items():
        state.pop(name) if value is None else state.update({name: value})
    (folder / f"{part}.pth").unlink()
    torch.save(state, folder / f"{part}.pth")
    return folder


def refusal(*argv) -> str:
    """What convert.py says before it ends with status 2 (`shared.run`)."""
    with pytest.raises(InputError) as refused:
        convert.main([*map(str, argv)])
    return str(refused.value)


# ------------------------------------------------------------------------------------ There and back


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_comes_back_with_the_same_bits(case, tmp_path):
    use_stereo, shapes, expected = CASES[case]
    folder, file, back = (
        write_folder(tmp_path / "official", shapes, use_stereo),
        tmp_path / "w.pdparams",
        tmp_path / "b",
    )
    convert.main([str(folder), str(file)])

    stored = convert.stored_options(file)
    assert expected.items() <= stored.items()
    assert (stored["height"], stored["width"], stored["use_stereo"]) == (64, 96, use_stereo)
    model = build_model(argparse.Namespace(**vars(parse_options([])) | stored))
    state = paddle.load(str(file))
    assert model.set_state_dict(state) == ([], [])
    first = torch.load(folder / "encoder.pth", weights_only=True)
    np.testing.assert_array_equal(model.encoder.encoder.fc.weight.numpy(), first["encoder.fc.weight"].numpy().T)
    np.testing.assert_array_equal(model.encoder.encoder.bn1._variance.numpy(), first["encoder.bn1.running_var"].numpy())

    convert.main([str(file), str(back)])
    assert {path.name for path in back.iterdir()} == {f"{part}.pth" for part in shapes}
    for part, names in shapes.items():
        first, again = (torch.load(where / f"{part}.pth", weights_only=True) for where in (folder, back))
        extra = ["height", "width", "use_stereo"] if part == "encoder" else []
        assert list(again) == [*names, *extra]
        for name in names:
            assert again[name].dtype == first[name].dtype and torch.equal(again[name], first[name]), name
        assert [(type(again[name]), again[name]) for name in extra] == [
            (type(first[name]), first[name]) for name in extra
        ]


def test_an_official_folder_fills_a_network_directly(official, converted):
    expected = read_weights(converted).tensors
    for source in (official, official / "encoder.pth", converted):
        model = build_model(parse_options("--frame_ids 0 --use_stereo".split()))
        assert convert.load_official(model, source).ok
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), expected[name])


# --num_layers and the like, and what of it can be seen in the tensors
SEEN = [
    ("--num_layers 34", "num_layers pose_model_type pose_model_input"),
    ("--num_layers 101 --pose_model_type posecnn", "num_layers pose_model_type"),
    ("--num_layers 152 --frame_ids 0 --use_stereo", "num_layers frame_ids"),
    ("--pose_model_input all", "pose_model_type pose_model_input frame_ids"),
    ("--pose_model_type shared --pose_model_input all", "pose_model_type pose_model_input frame_ids"),
    ("--pose_model_type posecnn --pose_model_input all --frame_ids 0 -1 1 2", "pose_model_input frame_ids"),
    ("--scales 2 0 1", "scales"),
    ("--predictive_mask --disable_automasking", "predictive_mask disable_automasking"),
]


@pytest.mark.parametrize(("command", "names"), SEEN)
def test_tensors_say_which_networks_they_are(command, names):
    options = parse_options(command.split())
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build_reference(options).state_dict().items()}
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    found = convert.describe(WeightFile(Path("folder"), "torch", tensors))
    assert {name: getattr(options, name) for name in names.split()}.items() <= found.items()


def test_parts_of_an_official_folder(official, tmp_path):
    model = build_model(parse_options(["--pose_model_type", "posecnn"]))
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    convert.load_official(model, official, ["depth"])
    moved = {n for n, value in model.state_dict().items() if not np.array_equal(value.numpy(), before[n])}
    assert moved == {name for name in before if name.startswith("depth.")}
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="has no pose; remove it from --models_to_load"):
        convert.load_official(model, official, ["encoder", "pose"])
    with pytest.raises(InputError, match="pose.net.0.weight"):
        convert.load_official(model, official)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_a_checkpoint_becomes_an_official_folder(tmp_path):
    """A checkpoint's own options say what its tensors do not: the source frames."""
    options = parse_options(
        "--frame_ids 0 -2 --pose_model_type posecnn --predictive_mask --disable_automasking".split()
    )
    state = build_model(options).state_dict()
    save_checkpoint(tmp_path, "latest", {"model.pdparams": state}, {"step": 1, "options": vars(options)})
    stored = convert.stored_options(tmp_path / "latest")
    assert stored == {name: getattr(options, name) for name in NETWORK_OPTIONS}
    convert.main([str(tmp_path / "latest"), str(tmp_path / "official")])
    mask = torch.load(tmp_path / "official" / "predictive_mask.pth", weights_only=True)
    np.testing.assert_array_equal(
        mask["decoder.10.conv.weight"].numpy(), state["predictive_mask.decoder.10.conv.weight"].numpy()
    )
    encoder = torch.load(tmp_path / "official" / "encoder.pth", weights_only=True)
    assert (
        encoder["encoder.bn1.num_batches_tracked"] == 0 and encoder["width"] == 640 and encoder["use_stereo"] is False
    )
    shutil.copy(tmp_path / "latest" / "model.pdparams", tmp_path / "w.pdparams")
    assert "predictive_mask.decoder.10.conv.weight" in refusal(tmp_path / "w.pdparams", tmp_path / "again")
    convert.main([str(tmp_path / "w.pdparams"), str(tmp_path / "again"), "--frame_ids", "0", "-2"])
    again, first = (tmp_path / name / "predictive_mask.pth" for name in ("again", "official"))
    assert again.read_bytes() == first.read_bytes()


def test_a_folder_that_does_not_say_its_size(official, tmp_path, capsys):
    """The command line's goes with it, and a line says so."""
    folder = replaced(linked(official, tmp_path / "f"), "encoder", height=None, width=None, use_stereo=None)
    argv = ["--height", "128", "--width", "256", "--use_stereo"]
    convert.main([str(folder), str(tmp_path / "w.pdparams"), *argv])
    assert "height is not in encoder.pth; written as 128" in capsys.readouterr().out
    stored = convert.stored_options(tmp_path / "w.pdparams")
    assert (stored["height"], stored["width"], stored["use_stereo"]) == (128, 256, True)


# ------------------------------------------------------------------------------------ ImageNet weights


@pytest.mark.parametrize("frames", [1, 2])
def test_imagenet_weights_of_either_framework(frames, tmp_path):
    """torchvision's names are the twin's; Paddle's own file is paddle.vision's network."""
    torch.manual_seed(0)
    theirs = ResNet(*BLOCKS[18]).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    ours = paddle.vision.models.resnet18(pretrained=False).state_dict()
    paddle.save(ours, str(tmp_path / "resnet18.pdparams"))
    for name, conv1, block, fc in (
        ("resnet18.pth", theirs["conv1.weight"], theirs["layer4.1.conv2.weight"], theirs["fc.weight"].T),
        ("resnet18.pdparams", ours["conv1.weight"], ours["layer4.1.conv2.weight"], ours["fc.weight"]),
    ):
        encoder = ResnetEncoder(18, frames)
        convert.load_resnet(encoder, tmp_path / name)
        expected = np.concatenate([conv1.numpy()] * frames, axis=1) / frames
        np.testing.assert_array_equal(encoder.encoder.conv1.weight.numpy(), expected)
        np.testing.assert_array_equal(encoder.encoder.layer4[1].conv2.weight.numpy(), block.numpy())
        np.testing.assert_array_equal(encoder.encoder.fc.weight.numpy(), fc.numpy())


def test_another_networks_imagenet_weights(tmp_path):
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ResNet(*BLOCKS[34]).state_dict().items()}
    torch.save(drawn(shapes, 0), tmp_path / "resnet34.pth")
    encoder = ResnetEncoder(18)
    before = encoder.encoder.conv1.weight.numpy().copy()
    with pytest.raises(InputError, match="layer4.2.conv1.weight|layer1.2.conv1.weight"):
        convert.load_resnet(encoder, tmp_path / "resnet34.pth")
    np.testing.assert_array_equal(encoder.encoder.conv1.weight.numpy(), before)


# ------------------------------------------------------------------------------------ What is refused


@pytest.mark.parametrize(
    "part, changes, said",
    [
        ("depth", {"decoder.3.conv.conv.bias": None}, "depth.decoder.3.conv.conv.bias"),
        ("depth", {"decoder.3.conv.conv.bias": torch.zeros(1)}, "depth.decoder.3.conv.conv.bias"),
        ("depth", {"decoder.10.conv.weight": torch.zeros(16)}, "depth.decoder.10.conv.weight"),
        ("depth", {"extra": torch.zeros(1)}, "depth.extra"),
        ("encoder", {"encoder.bn1.bias": torch.zeros(64, dtype=torch.int32)}, "encoder.encoder.bn1.bias"),
        ("encoder", {"height": 100}, "height 100 is not a multiple of 32"),
        ("encoder", {"encoder.layer3.1.conv2.weight": None}, "no ResNet encoder of 18, 34, 50"),
    ],
)
def test_nothing_is_lost_silently(official, tmp_path, part, changes, said):
    folder = replaced(linked(official, tmp_path / "f"), part, **changes)
    assert said in refusal(folder, tmp_path / "w.pdparams")
    assert not (tmp_path / "w.pdparams").exists()


def test_files_that_are_no_weights(official, tmp_path):
    folder = linked(official, tmp_path / "f")
    content = (folder / "depth.pth").read_bytes()
    for bad in (content[: len(content) // 2], b"", b"words"):
        (folder / "depth.pth").unlink()
        (folder / "depth.pth").write_bytes(bad)
        line = refusal(folder, tmp_path / "w.pdparams")
        assert str(folder / "depth.pth") in line and "\n" not in line
    (folder / "depth.pth").unlink()
    torch.save({"decoder": Bomb(tmp_path / "harm")}, folder / "depth.pth")
    assert "refused" in refusal(folder, tmp_path / "w.pdparams")
    (tmp_path / "bomb.pdparams").write_bytes(pickle.dumps({"w": Bomb(tmp_path / "harm")}, protocol=4))
    assert "bomb.pdparams" in refusal(tmp_path / "bomb.pdparams", tmp_path / "out")
    (folder / "encoder.pth").unlink()
    assert "no encoder.pth" in refusal(folder, tmp_path / "w.pdparams")
    assert "no such file or folder" in refusal(tmp_path / "absent", tmp_path / "w.pdparams")
    assert {path.name for path in tmp_path.iterdir()} == {"f", "bomb.pdparams"}


def test_paddle_files_that_do_not_fit(converted, tmp_path):
    bad, target = tmp_path / "bad.pdparams", tmp_path / "out"
    tensors = read_weights(converted).tensors
    name = "depth.decoder.3.conv.conv.bias"
    for changed in (
        {n: value for n, value in tensors.items() if n != name},
        tensors | {name: tensors[name][:1]},
        tensors | {name: tensors[name] + np.float64(1e-12)},
    ):
        write_pdparams(bad, changed)
        assert name in refusal(bad, target)
    for name, value, said in (
        ("height", np.array([64, 64]), "height is not a whole number"),
        ("width", np.array(0.5), "width is not a whole number"),
        ("width", np.array(-64), "width -64 is not a multiple"),
        ("use_stereo", np.array([1]), "use_stereo is not a whole number"),
    ):
        write_pdparams(bad, tensors | {name: value})
        line = refusal(bad, target)
        assert said in line and str(bad) in line
    assert "another network" in refusal(converted, target, "--num_layers", 50)
    assert not target.exists()


def test_targets_that_are_in_the_way(official, converted, tmp_path):
    os.link(converted, tmp_path / "w.pdparams")
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept.txt").write_text("mine")
    for target in (full, tmp_path / "w.pdparams" / "folder", full / "kept.txt"):
        assert str(target) in refusal(tmp_path / "w.pdparams", target)
    assert "not written" in refusal(official, full / "kept.txt" / "w.pdparams")
    assert "already" in refusal(official, tmp_path / "again")
    assert "nothing to convert" in refusal(tmp_path / "w.pdparams", tmp_path / "again.pdparams")
    assert (full / "kept.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.rglob("*")} == {"w.pdparams", "full", "kept.txt"}
    (tmp_path / "empty").mkdir()
    convert.main([str(tmp_path / "w.pdparams"), str(tmp_path / "empty")])
    assert (tmp_path / "empty" / "depth.pth").is_file()


# ------------------------------------------------------------------------------------ Export


def test_exported_networks_agree(official, tmp_path, capsys):
    target = tmp_path / "export"
    assert export.main(["--weights", str(official), "--output_dir", str(target)]) == 0
    assert capsys.readouterr().out.count("largest difference to dygraph") == 2
    names = {"inference.json", "inference.pdiparams", "model.onnx", "network.json"}
    assert {path.name for path in target.iterdir()} == names
    network = json.loads((target / "network.json").read_text())
    assert (network["height"], network["width"], network["num_layers"]) == (64, 96, 18)
    model = build_model(parse_options("--frame_ids 0 --use_stereo".split()))
    convert.load_official(model, official)
    model.eval()
    engines = inference_engine(target / "inference"), onnx_engine(target / "model.onnx")
    for count in (1, 3):
        images = np.random.default_rng(count).random((count, 3, 64, 96), np.float32)
        with paddle.no_grad():
            expected = model.predict_disparity(paddle.to_tensor(images))["disp", 0].numpy()
        assert expected.std() > 1e-3
        for engine in engines:
            found = engine(images)
            assert found.shape == (count, 1, 64, 96) and np.abs(found - expected).max() <= 1e-4


def test_a_network_without_scale_0_is_not_exported(tmp_path):
    folder = write_folder(tmp_path / "f", listed(listings(), **scales(128)), True)
    with pytest.raises(InputError, match="without scale 0"):
        export.main(["--weights", str(folder), "--output_dir", str(tmp_path / "o")])
    with pytest.raises(InputError, match="--weights is missing"):
        export.main([])
    assert not (tmp_path / "o").exists()
