"""Draw what auto-masking excludes from a training item (paper section 3.2 and figure 5).

    python demo_automask.py --weights W --data_path KITTI --split eigen_zhou --line 0 --output_dir O

Writes O/automask_SPLIT_LINE.png: the image, its disparity, the first source warped into it, and the mask of the first
scale, white where a warped source has a smaller error than the unwarped ones. Black is what does not move relative to
the camera, such as a car ahead at constant distance. Lines are those of the split's validation list, counted from 0.
"""

from shared import InputError, run, set_up

set_up()

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from shared.files import atomic_write
from shared.running.launch import use_device
from shared.running.options import count

from convert import load_network, parse_options_for_weights
from datasets import build_dataset, collate
from demo import colour_map
from losses import build_criterion
from options import FOLDER, build_parser, sources
from pictures import to_pixels


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__, ("run", "output", "network", "reading"))
    parser.add_argument("--line", type=count, default=0, metavar="N", help="line of the validation list, from 0")
    options = parse_options_for_weights(argv, parser, own_size=True)
    use_device(options.device)
    model = load_network(options)
    if not sources(options):
        raise InputError(f"--weights {options.weights}: without source frames; give weights with a pose network")
    dataset = build_dataset(options, "val")
    if options.line >= len(dataset):
        raise InputError(f"--line {options.line}: the list has {len(dataset)} lines, counted from 0")
    batch = collate([dataset[options.line]])
    paddle.seed(0)
    with paddle.no_grad():
        outputs = model(batch)
        options.disable_automasking = False
        details = build_criterion(options).details(outputs, batch)
    scale, first = options.scales[0], sources(options)[0]
    rows = [
        to_pixels(batch["color", 0, 0][0].numpy()),
        np.asarray(colour_map(outputs["disp", scale].numpy(), (options.width, options.height))),
        to_pixels(details["color", first, scale][0].numpy()),
        to_pixels(details[f"identity_selection/{scale}"][0].numpy().astype(np.float32)),
    ]
    picture = Image.fromarray(np.concatenate(rows))
    factor = max(1, 512 // options.width)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.NEAREST)
    target = Path(options.output_dir or FOLDER / "output" / "demo") / f"automask_{options.split}_{options.line}.png"
    atomic_write(target, lambda file: picture.save(file, "PNG"))
    print(f"wrote {target}")


if __name__ == "__main__":
    run(main)
