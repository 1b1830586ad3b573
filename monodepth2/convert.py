"""Official checkpoint folder <-> .pdparams.

    python convert.py mono+stereo_640x192 mono+stereo_640x192.pdparams
    python convert.py mono+stereo_640x192.pdparams FOLDER

An official folder holds encoder.pth, depth.pth, pose_encoder.pth, pose.pth and predictive_mask.pth, or some of them;
encoder.pth also holds the height and width of the input and whether stereo was used (NOTES 3.11). Everything is
converted; nothing may be left over on either side. The networks are recognised by their tensors; only a predictive
mask, whose outputs are the source frames, needs `--frame_ids` where they were not 0 -1 1.
"""

from shared import InputError, run, set_up

set_up()

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared import convert
from shared.files import write_error
from shared.weights import WeightFile, read_torch, read_weights, write_torch
from shared.weights.published import published_file

from models import Monodepth2, build_model
from models.resnet_encoder import first_convolution
from options import FOLDER, OPTIONS, SUBMODELS, add_network_options, image_side, parse_options, remembered_options

#: entries of encoder.pth that are not tensors
STORED = ("height", "width", "use_stereo")
#: the names that ImageNet weights are published under, newest first: torchvision's by hash, and Paddle's
_TORCHVISION_HASHES = {
    18: ("f37072fd", "5c106cde"),
    34: ("b627a593", "333f7ec4"),
    50: ("0676ba61", "19c8e357"),
    101: ("63fe2227", "5d3b4d8f"),
    152: ("394f9c45", "b121ed2d"),
}


# ------------------------------------------------------------------------------------ reading


def read_official(path: str | Path) -> WeightFile:
    """All networks of an official folder as one file of tensors named `<sub-network>.<official name>`.

    `path` may also be a .pdparams or a checkpoint folder, or the encoder.pth of an official folder. Raises InputError.
    """
    path = Path(path)
    if path.is_file() and path.name == "encoder.pth":
        path = path.parent
    if not path.is_dir() or (path / "model.pdparams").is_file():
        return read_weights(path)
    if not (path / "encoder.pth").is_file():
        raise InputError(f"{path}: holds no encoder.pth of the reference; give the folder of .pth files")
    whole = WeightFile(path, "torch")
    for name in SUBMODELS:
        if (path / f"{name}.pth").is_file():
            file = read_torch(path / f"{name}.pth")
            whole.tensors |= {f"{name}.{tensor}": array for tensor, array in file.tensors.items()}
            whole.meta |= file.meta if name == "encoder" else {}
            whole.notes += [f"{name}.pth: {note}" for note in file.notes]
    for name in STORED:
        value = whole.meta.get(name)
        if isinstance(value, int) and value >= 0:
            whole.tensors[name] = np.array(int(value), np.int64)
    return whole


def stored_options(path: str | Path, file: WeightFile | None = None) -> dict:
    """The network options {name: value} of weights: layers, input size, pose networks, ...

    `path`: an official folder, .pdparams or a checkpoint folder; `file` is what it holds, if it was read already. A
    checkpoint holds all network options; of the other two, those that their tensors show. Raises InputError where they
    cannot be read or have no encoder.
    """
    return remembered_options(str(path)) or describe(file or read_official(path))


def describe(file: WeightFile) -> dict:
    """The network options that the tensors of `file` show."""
    tensors, found = file.tensors, {}
    blocks = {name for name in tensors if re.fullmatch(r"encoder\.encoder\.layer3\.\d+\.conv2\.weight", name)}
    bottlenecks = "encoder.encoder.layer3.0.conv3.weight" in tensors
    layers = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
    if (len(blocks), bottlenecks) not in layers:
        raise InputError(
            f"{file.path}: has no ResNet encoder of 18, 34, 50, 101 or 152 layers; give Monodepth2 weights"
        )
    found["num_layers"] = layers[len(blocks), bottlenecks]
    for name in ("height", "width"):
        if name in tensors:
            try:
                found[name] = image_side(_number(file, name))
            except argparse.ArgumentTypeError as error:
                raise InputError(f"{file.path}: its {name} {error}") from error
    if "use_stereo" in tensors:
        found["use_stereo"] = bool(_number(file, "use_stereo"))
    found |= _scales_of(tensors)
    found |= _poses_of(tensors)
    if "predictive_mask.decoder.0.conv.conv.weight" in tensors:
        found |= {"predictive_mask": True, "disable_automasking": True}
    return found


def _number(file: WeightFile, name: str) -> int:
    """The value of `height`, `width` or `use_stereo`."""
    value = file.tensors[name]
    if value.ndim or value.dtype.kind not in "biu":
        raise InputError(
            f"{file.path}: its {name} is not a whole number ({value.dtype} {list(value.shape)}); convert again"
        )
    return int(value)


def _inputs(tensors: dict, name: str) -> int:
    """The input channels of a convolution; 0 for another shape, which is reported when the network is filled."""
    return tensors[name].shape[1] if tensors[name].ndim == 4 else 0


def _scales_of(tensors: dict) -> dict:
    """The scales, by the input width of each disparity convolution (NOTES 3.4)."""
    widths = {16: 0, 32: 1, 64: 2, 128: 3}
    scales = []
    while f"depth.decoder.{10 + len(scales)}.conv.weight" in tensors:
        scales.append(widths.get(_inputs(tensors, f"depth.decoder.{10 + len(scales)}.conv.weight"), 0))
    return {"scales": scales} if scales else {}


def _poses_of(tensors: dict) -> dict:
    """The pose networks, and the number of their frames."""
    if "pose.pose_conv.weight" in tensors and "pose.net.0.weight" in tensors:
        kind, frames = "posecnn", _inputs(tensors, "pose.net.0.weight") // 3
    elif "pose_encoder.encoder.conv1.weight" in tensors:
        kind, frames = "separate_resnet", _inputs(tensors, "pose_encoder.encoder.conv1.weight") // 3
    elif "pose.net.1.weight" in tensors:
        kind, frames = "shared", _inputs(tensors, "pose.net.1.weight") // 256
    else:
        return {"frame_ids": [0]}
    found = {"pose_model_type": kind, "pose_model_input": "pairs" if frames == 2 else "all"}
    if frames > 2:
        found["frame_ids"] = [0, -1, 1, *range(2, frames - 1)][:frames]
    return found


# ------------------------------------------------------------------------------------ weights and the command line


def parse_options_for_weights(
    argv: Sequence[str] | None, parser: argparse.ArgumentParser, needed: bool = True, own_size: bool = False
) -> argparse.Namespace:
    """`parse_options`, where the network's options are those of --resume or --weights; the command line wins.

    With `own_size` height and width are those of the weights even so, and a line says so where others were asked for:
    a depth network works at the size that it was trained for (NOTES 7.1). InputError for weights that are not there or
    not understood.
    """
    stored: dict = {}

    def remember(path: str | None) -> dict:
        stored.update(stored_options(path) if path else {})
        return stored

    options = OPTIONS.parse_options_for_weights(argv, parser, needed, remember)
    if own_size and "height" in stored:
        size, asked = (stored["width"], stored["height"]), (options.width, options.height)
        if asked != size:
            print(f"-> the weights are for {size[0]}x{size[1]}: going on with that, not with {asked[0]}x{asked[1]}")
        options.width, options.height = size
    return options


def load_network(options: argparse.Namespace) -> Monodepth2:
    """The network of --weights, filled and in eval mode. InputError for weights that do not fit.

    Its shape is the weights' own, whatever `options` say.
    """
    model = build_model(argparse.Namespace(**vars(options) | stored_options(options.weights)))
    load_official(model, options.weights)
    model.eval()
    return model


def load_official(model: Monodepth2, path: str | Path, parts: Sequence[str] | None = None) -> convert.Report:
    """Fill `model` from an official folder, a .pdparams or a checkpoint folder, strictly.

    With `parts`, names of sub-networks, only those are filled, each completely; other tensors of the file are ignored.
    Where the file lacks the input size or `use_stereo`, the model's are kept. Raises InputError (ConversionError) when
    names, shapes or dtypes do not match; the model is then unchanged.
    """
    file = read_official(path)
    if parts is not None:
        file.tensors = {name: array for name, array in file.tensors.items() if name.split(".")[0] in parts}
        lacking = [part for part in parts if not any(name.startswith(f"{part}.") for name in file.tensors)]
        if lacking:
            raise InputError(f"{path}: has no {', '.join(lacking)}; remove it from --models_to_load, or use others")
    return convert.fill(
        model,
        file,
        keeps=lambda name: name in STORED or (parts is not None and name.split(".")[0] not in parts),
    )


def imagenet_weights(options: argparse.Namespace) -> Path | None:
    """The file that --weights_init asks for; None for scratch. InputError where it is not there."""
    layers = options.num_layers
    names = {
        "pretrained": [f"resnet{layers}-{digest}.pth" for digest in _TORCHVISION_HASHES[layers]],
        "paddle_pretrained": [f"resnet{layers}.pdparams"],
    }
    whose = "Paddle's" if options.weights_init == "paddle_pretrained" else "torchvision's"
    return published_file("weights_init", options.weights_init, names, FOLDER / "pretrained", whose)


def load_resnet(encoder, path: str | Path) -> None:
    """Fill a ResnetEncoder from ImageNet weights: torchvision's .pth, or Paddle's own .pdparams of the same ResNet.

    The first convolution of an encoder of several images is repeated and divided (NOTES 3.2). Raises InputError
    (ConversionError) when the file is of another network.
    """
    import paddle

    file = read_weights(path)
    name, wanted = "conv1.weight", encoder.encoder.conv1.weight.shape[1]
    if name in file.tensors and file.tensors[name].shape[1:2] == (3,) and wanted > 3:
        file.tensors[name] = first_convolution(paddle.to_tensor(file.tensors[name]), wanted // 3).numpy()
    convert.fill(encoder.encoder, file)


# ------------------------------------------------------------------------------------ converting


def to_paddle(file: WeightFile, target: Path, model: Monodepth2) -> convert.Report:
    """Write an official folder as the `.pdparams` file `target`."""
    given = {name: np.array(getattr(model, name).numpy()) for name in STORED if name not in file.tensors}
    if file.kind == "torch":
        file.tensors = given | file.tensors
        file.notes += [f"{name} is not in encoder.pth; written as {value}" for name, value in given.items()]
    return convert.convert_file(file, target, model)


def to_torch(file: WeightFile, target: Path, model: Monodepth2) -> convert.Report:
    """Write `.pdparams` or a checkpoint folder as an official folder: completely, or not at all."""
    if file.kind == "torch":
        raise InputError(f"{file.path}: is already an official folder; name a .pdparams file to convert it to")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a new folder")
    tensors, report = convert.plan(model).to_torch(file.tensors, file.torch_only)
    report.notes += file.notes
    report.raise_if_bad(file.path)
    stored = {"height": int(tensors["height"]), "width": int(tensors["width"])}
    stored["use_stereo"] = bool(tensors["use_stereo"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise write_error(target, error) from error
    try:
        for part in SUBMODELS:
            prefix = f"{part}."
            own = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
            if own:
                write_torch(building / f"{part}.pth", own, stored if part == "encoder" else None)
        building.chmod(0o755)
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return report


def main(argv: Sequence[str] | None = None) -> None:
    parser = convert.script_parser(
        __doc__,
        "folder of .pth files, or .pdparams, or checkpoint folder",
        "a .pdparams file to write, or else a folder of .pth files",
    )
    add_network_options(parser)
    source = parser.parse_args(argv).source
    if not Path(source).exists():
        raise InputError(f"{source}: no such file or folder")
    file = read_official(source)
    options = parse_options(argv, parser, stored_options(source, file))
    convert_to = to_paddle if options.target.endswith(".pdparams") else to_torch
    report = convert_to(file, Path(options.target), build_model(options))
    print(f"ResNet-{options.num_layers}, {options.width}x{options.height}: {report}\nwrote {options.target}")


if __name__ == "__main__":
    run(main)
