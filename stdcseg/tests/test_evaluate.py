"""evaluate.py and engine.evaluate: every image counted once, by every protocol and engine, in all processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared import InputError
from shared.weights import write_pdparams

import evaluate
from constants import CLASS_NAMES
from data_sets import draw_split
from engine import evaluate as evaluate_split
from metrics import Protocol
from models import build_model
from options import parse_options

STDCSEG = Path(__file__).resolve().parents[1]


class Drawn:
    """Images of unequal sizes whose label is the brightest channel, where a pixel is bright enough."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        image = np.random.default_rng(index).standard_normal((3, 24, 48 + 8 * index)).astype(np.float32)
        return image, np.where(image.max(0) > 0.2, image.argmax(0), 255)

    def image_path(self, index: int) -> Path:
        return Path(f"{index}.png")


def test_every_image_is_counted():
    data, options = Drawn(), parse_options(["--num_classes", "3"])
    whole, half = evaluate_split(lambda x: x, data, options, [Protocol((1.0,)), Protocol((0.5,))])
    assert whole.miou() == whole.pixel_accuracy() == 1.0 and half.miou() < 0.9
    assert whole.matrix.sum() == half.matrix.sum() == sum((data[i][1] != 255).sum() for i in range(3))


def test_labels_that_are_not_a_class_name_the_image():
    options = parse_options(["--num_classes", "2"])
    with pytest.raises(InputError, match="^0.png: labels hold 2"):
        evaluate_split(lambda x: x[:, :2], Drawn(), options, [Protocol((1.0,))])


PROCESSES = """
import sys
sys.path[:0] = sys.argv[1:]
import paddle.distributed as dist
from engine import evaluate
from metrics import Protocol
from options import parse_options
from test_evaluate import Drawn
dist.init_parallel_env()
matrix, = evaluate(lambda x: x, Drawn(), parse_options(["--num_classes", "3"]), [Protocol((0.5,))])
print("process", dist.get_rank(), matrix.matrix.tolist())
"""


def test_two_processes_count_what_one_counts(tmp_path):
    """Three images on two processes: the sampler gives one of them twice, and it counts once."""
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    launch = ["paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
    command = [sys.executable, "-m", *launch, str(script), str(STDCSEG), str(STDCSEG / "tests")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (alone,) = evaluate_split(lambda x: x, Drawn(), parse_options(["--num_classes", "3"]), [Protocol((0.5,))])
    told = finished.stdout + "".join(log.read_text() for log in (tmp_path / "log").glob("workerlog.*"))
    for rank in range(2):
        assert f"process {rank} {alone.matrix.tolist()}" in told


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import paddle
from metrics import Protocol
weight = paddle.rand([19, 3, 1, 1])
images = paddle.rand([1, 3, 1024, 2048])
for protocol in Protocol((0.5,)), Protocol((0.5, 1.0), True), Protocol((1.0,), True, 1024):
    protocol.predict(lambda x: paddle.nn.functional.conv2d(x, weight), images, (1024, 2048))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_of_a_cityscapes_image():
    """What the evaluation itself needs in each mode, with a network of one layer: 1.3 GB, that of Paddle included."""
    command = [sys.executable, "-c", MEMORY, str(STDCSEG)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout.split()[-1]) < 2 * 2**30


@pytest.fixture(scope="module")
def run_files(tmp_path_factory) -> list[str]:
    """Options that name random weights of a narrow network, and three drawn images."""
    root = tmp_path_factory.mktemp("run")
    draw_split(root / "data", "val", {"ulm": 3}, (96, 64))
    draw_split(root / "data", "train", {"ulm": 1}, (96, 64))
    write_pdparams(root / "weights.pdparams", build_model(parse_options(["--base", "8"])).state_dict())
    return ["--base", "8", "--weights", str(root / "weights.pdparams"), "--data_path", str(root / "data")]


@pytest.mark.parametrize("engine", ["dygraph", "inference", "onnx"])
def test_every_engine_gives_the_metrics(run_files, tmp_path, capsys, engine):
    output = tmp_path / "metrics.json"
    evaluate.main([*run_files, "--output", str(output), "--engine", engine])
    metrics = json.loads(output.read_text())
    assert list(metrics) == ["scale_0.5", "scale_0.75", "images"] and metrics["images"] == 3
    assert list(metrics["scale_0.5"]["iou"]) == list(CLASS_NAMES)
    told = capsys.readouterr().out
    assert f"pixel accuracy {100 * metrics['scale_0.75']['pixel_accuracy']:.2f} %" in told
    assert told.count("bicycle") == 2 and f"3 images, {engine}" in told


def test_sums_flips_and_windows(run_files, tmp_path, capsys):
    output = tmp_path / "metrics.json"
    words = ["--multi_scale", "0.5", "1", "--scale", "1", "--flip", "--crop_eval", "48", "--split", "train"]
    evaluate.main([*run_files, *words, "--output", str(output)])
    assert list(json.loads(output.read_text())) == ["scale_1_flip_crop_48", "scales_0.5_1_flip_crop_48", "images"]
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    counted = sum(int(row[-2].replace(",", "")) for row in rows if row and row[0] in CLASS_NAMES)
    assert 0 < counted <= 2 * 96 * 64  # one whole image in two tables: nothing cropped, though it is of train
    evaluate.main([*run_files, "--multi_scale", "0.5", "1", "--output", str(output)])
    assert list(json.loads(output.read_text())) == ["scales_0.5_1", "images"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scale", "0.001"], "scale 0.001 leaves nothing of an image of 96x64"),
        (["--split", "tset"], "tset"),
        (["--weights", "missing.pdparams"], "missing.pdparams"),
        (["--data_path", "missing"], "missing"),
    ],
)
def test_bad_input(run_files, words, told):
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        evaluate.main([*run_files, *words])
    assert "\n" not in str(caught.value)
