"""convert.py: official checkpoints to Paddle and back, ImageNet weights, and what is refused."""

import argparse
import pickle
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
from shared.convert import plan
from shared.tests.fuzz import fuzz_reader
from shared.weights import read_weights, save_checkpoint, write_pdparams

import convert
from golden_files import VARIANTS, golden, official_shapes
from models import build_model
from options import NETWORK_OPTIONS, describe, parse_options, stored_options

FOLDER = Path(__file__).resolve().parents[1]
#: a small network of each kind; the tensors do not say how many heads there are
SMALL = """--backbone resnet18 --hidden_dim 32 --dim_feedforward 48 --nheads 4 --enc_layers 1 --dec_layers 2
    --num_queries 7 --num_classes 9 --enc_n_points 2 --dec_n_points 3""".split()
UNSAID = ["--nheads", "4", "--enc_n_points", "2", "--dec_n_points", "3"]


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> OrderedDict:
    """Formula weights as torch tensors, the same tensor under all names of one."""
    state = formula_state(shapes, seed)
    refined = any(name.startswith("transformer.decoder.bbox_embed") for name in shapes)
    for name in state:
        alias = name.removeprefix("transformer.decoder.") if "_embed." in name else name
        if not refined and alias.startswith(("class_embed.", "bbox_embed.")):
            kind, _, rest = alias.split(".", 2)
            alias = f"{kind}.0.{rest}"
        state[name] = state[alias]
    return OrderedDict((name, torch.from_numpy(array)) for name, array in state.items())


def small(*words: str):
    return build_model(parse_options([*SMALL, *words]))


def official_file(path: Path, model, **args) -> OrderedDict:
    """A checkpoint of `model`'s shapes as the reference writes it; returns its network's tensors."""
    state = drawn({name: shape for name, shape in plan(model).torch_shapes().items() if "num_batches" not in name})
    moments = {0: {"step": 3, "exp_avg": torch.zeros(4), "exp_avg_sq": torch.ones(4)}}
    content = {
        "model": state,
        "optimizer": {"state": moments, "param_groups": [{"lr": 2e-4, "params": [0]}]},
        "lr_scheduler": {"step_size": 40, "gamma": 0.1, "last_epoch": 50, "_last_lr": [2e-5]},
        "epoch": 49,
        "args": argparse.Namespace(lr=2e-4, masks=False, lr_backbone_names=["backbone.0"], **args),
    }
    torch.save(content, path)
    return state


def same_bits(a: dict, b: dict) -> None:
    assert list(a) == list(b)
    for name, array in a.items():
        other = np.asarray(b[name])
        assert array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes(), name


def refusal(*argv) -> str:
    """What convert.py says, in one line, before it ends with status 2 (`shared.run`)."""
    with pytest.raises(InputError) as refused:
        convert.main([str(word) for word in argv])
    return str(refused.value)


# ------------------------------------------------------------------------------------------------ official checkpoints


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_official_tensor_there_and_back(variant):
    """All names, in their order, through the network itself, to the same bits."""
    model = build_model(parse_options(VARIANTS[variant][1].split()))
    layout, shapes = plan(model, ignore=convert.IGNORE_FROZEN), official_shapes(variant)
    assert layout.torch_shapes() == shapes and list(layout.torch_shapes()) == list(shapes)
    official = {name: tensor.numpy() for name, tensor in drawn(shapes).items()}
    profiled = {"total_params": np.zeros(1), "transformer.total_ops": np.zeros(1)}
    filled, _, report = layout.to_paddle(official | profiled)
    report.raise_if_bad("official")
    assert report.ignored == list(profiled)
    assert model.set_state_dict(filled) == ([], [])
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    same_bits(official, layout.to_torch(own)[0])
    found = describe(read_like(official))
    wanted = vars(parse_options(VARIANTS[variant][1].split()))
    unsaid = {"dilation", "num_queries"} if variant in ("single_scale_dc5", "two_stage") else set()
    assert all(wanted[name] == value for name, value in found.items() if name not in unsaid)


def read_like(tensors: dict):
    return argparse.Namespace(tensors=tensors, meta={}, path="official.pth")


def test_counts_of_parameters():
    """NOTES 3.2: parameters, and the trainable ones."""
    model = build_model(parse_options(VARIANTS["two_stage"][1].split()))
    parameters = model.parameters()
    assert sum(parameter.size for parameter in parameters) == 41_181_529
    trainable = [parameter for parameter in parameters if not parameter.stop_gradient]
    # of each attention of the queries Paddle has three weights and three biases where the reference has one
    assert (len(trainable) - 6 * 4, sum(parameter.size for parameter in trainable)) == (351, 40_959_129)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--num_feature_levels 1 --position_embedding learned",
        "--with_box_refine --backbone_norm batch",
        "--with_box_refine --two_stage --num_feature_levels 5",
    ],
)
def test_checkpoint_of_the_reference(words, tmp_path, capsys):
    """Beside optimiser, schedule, epoch and command line: to .pdparams, into a network, and back to the same bits."""
    words = words.split()
    model = small(*words)
    said = {"nheads": 4, "enc_n_points": 2, "dec_n_points": 3, "num_queries": 7, "dilation": False, "dropout": 0.1}
    official = official_file(tmp_path / "checkpoint.pth", model, **said)
    extra = ["--backbone_norm", "batch"] if "batch" in words else []
    convert.main([str(tmp_path / "checkpoint.pth"), str(tmp_path / "w.pdparams"), *extra])
    assert "all" in capsys.readouterr().out
    assert model.set_state_dict(paddle.load(str(tmp_path / "w.pdparams"))) == ([], [])
    again = small(*words)
    convert.load_official(again, tmp_path / "checkpoint.pth")
    same_bits(*({name: value.numpy() for name, value in m.state_dict().items()} for m in (model, again)))
    two_stages = ["--num_queries", "7"] if "--two_stage" in words else []
    convert.main([str(tmp_path / "w.pdparams"), str(tmp_path / "back.pth"), *UNSAID, *two_stages])
    back = read_weights(tmp_path / "back.pth").tensors
    back = {name: array for name, array in back.items() if not name.endswith("num_batches_tracked")}
    same_bits({name: tensor.numpy() for name, tensor in official.items()}, back)


def test_command_line_converts(tmp_path):
    official_file(tmp_path / "c.pth", small(), nheads=4, enc_n_points=2, dec_n_points=3)
    command = [sys.executable, str(FOLDER / "convert.py"), "c.pth", "w.pdparams"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "resnet18, 4 levels" in finished.stdout and "wrote w.pdparams" in finished.stdout


def test_what_a_command_line_in_the_file_says(tmp_path):
    official_file(tmp_path / "c.pth", small(), nheads=4, enc_n_points=2, dec_n_points=3, dilation=True, num_queries=9)
    found = stored_options(tmp_path / "c.pth")
    assert found["nheads"] == 4 and found["dilation"] is True and found["num_classes"] == 9
    assert found["hidden_dim"] == 32 and found["dim_feedforward"] == 48 and found["backbone"] == "resnet18"


def test_heads_that_differ_are_no_one_head(tmp_path):
    """Without refinement all layers share a head: a file whose six copies differ is of another network."""
    state = official_file(tmp_path / "c.pth", small(), nheads=4, enc_n_points=2, dec_n_points=3)
    state["class_embed.1.bias"] = state["class_embed.1.bias"] + 1
    torch.save({"model": state}, tmp_path / "c.pth")
    line = refusal(tmp_path / "c.pth", tmp_path / "w.pdparams", *UNSAID)
    assert "class_embed.1.bias" in line and not (tmp_path / "w.pdparams").exists()


# ------------------------------------------------------------------------------------------------------ the backbone


def test_imagenet_weights_of_torchvision(tmp_path):
    """Without the classifier, the counters left out; other norms and layers are refused."""
    model = small()
    state = drawn(
        plan(model.backbone[0].body).torch_shapes()
        | {"bn1.num_batches_tracked": (), "fc.weight": (1000, 512), "fc.bias": (1000,)}
    )
    torch.save(state, tmp_path / "resnet18.pth")
    report = convert.load_backbone(model, tmp_path / "resnet18.pth")
    assert set(report.ignored) == {"bn1.num_batches_tracked", "fc.weight", "fc.bias"}
    for name in ("conv1.weight", "bn1.running_var", "layer4.1.bn2.bias", "layer3.0.downsample.1.running_mean"):
        layer, leaf = model.backbone[0].body, name
        np.testing.assert_array_equal(layer.state_dict()[leaf].numpy(), state[name].numpy())
    with pytest.raises(InputError, match=r"resnet18\.pth"):
        convert.load_backbone(small("--backbone", "resnet34"), tmp_path / "resnet18.pth")


def test_frozen_norms_never_change():
    model = build_model(parse_options([*SMALL, "--dropout", "0"]))
    before = {name: value.numpy() for name, value in model.state_dict().items() if ".body." in name}
    model.train()
    outputs = model(paddle.rand([2, 3, 64, 64]), paddle.zeros([2, 64, 64], "bool"))
    outputs["pred_logits"].sum().backward()
    after = model.state_dict()
    assert all(np.array_equal(value, after[name].numpy()) for name, value in before.items())
    learning = {name for name, p in model.backbone[0].body.named_parameters() if not p.stop_gradient}
    assert learning == {name for name, _ in model.backbone[0].body.named_parameters() if name[:6] in _LATE}
    assert all(p.stop_gradient for p in small("--lr_backbone", "0").backbone[0].parameters())


_LATE = ("layer2", "layer3", "layer4")


# --------------------------------------------------------------------------------------------------------- refusals


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bombed"),))


def test_files_that_are_refused(tmp_path):
    official_file(tmp_path / "c.pth", small(), nheads=4, enc_n_points=2, dec_n_points=3)
    target = tmp_path / "w.pdparams"
    assert "no such file" in refusal(tmp_path / "absent.pth", target)
    (tmp_path / "words.pth").write_text("words")
    assert "words.pth" in refusal(tmp_path / "words.pth", target)
    with (tmp_path / "bomb.pdparams").open("wb") as file:
        pickle.dump({"weight": _Bomb()}, file)
    assert "nothing was executed" in refusal(tmp_path / "bomb.pdparams", tmp_path / "w.pth")
    torch.save({"fc.weight": torch.zeros(3, 4)}, tmp_path / "other.pth")
    assert "Deformable DETR" in refusal(tmp_path / "other.pth", target)
    assert "wrong shape" in refusal(tmp_path / "c.pth", target, "--hidden_dim", 64)
    assert "does not match" in refusal(tmp_path / "c.pth", target, "--with_box_refine", *UNSAID)
    assert "end its name" in refusal(tmp_path / "c.pth", tmp_path / "w.txt")
    assert "nothing to convert" in refusal(tmp_path / "c.pth", tmp_path / "d.pth")
    assert not target.exists() and not Path("bombed").exists()


def test_a_checkpoint_folder_says_what_it_holds(tmp_path):
    options = parse_options([*SMALL, "--with_box_refine"])
    arrays = {name: value.numpy() for name, value in build_model(options).state_dict().items()}
    save_checkpoint(tmp_path, "latest", {"model.pdparams": arrays}, {"step": 1, "options": vars(options)})
    found = stored_options(tmp_path / "latest")
    assert found == {name: getattr(options, name) for name in NETWORK_OPTIONS}
    convert.main([str(tmp_path / "latest"), str(tmp_path / "back.pth")])
    assert len(read_weights(tmp_path / "back.pth").tensors) > 100
    (tmp_path / "latest" / "state.json").write_text('{"step": 1}')
    assert "state.json" in refusal(tmp_path / "latest", tmp_path / "again.pth")


def test_damaged_weight_files(tmp_path):
    """What reads weights for their network's shape refuses with one line or reads right."""
    tensors = {"transformer.level_embed": np.zeros((4, 32), np.float32), "class_embed.0.weight": np.zeros((9, 32))}
    path = tmp_path / "w.pdparams"
    write_pdparams(path, {name: array.astype(np.float32) for name, array in tensors.items()})
    content = path.read_bytes()

    def read(path: Path) -> None:
        stored_options(path)

    assert fuzz_reader(read, path, content, 200) > 100


def test_golden_variant_names():
    """The listings are those of the configurations that the figures name."""
    names = {str(golden()["meta/variant"])}
    names |= {str(golden("variants")[key]) for key in golden("variants").files if key.endswith("/variant")}
    assert names <= {name for name, _ in VARIANTS.values()} and len(names) >= 4
