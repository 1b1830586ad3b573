"""Pictures that people bring: found, read, named and worked through alike by every folder's data sets and demo."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from shared import InputError
from shared.files import one_line

#: accepted endings of file names in a folder, compared in lower case
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of more than 8 bits a sample


def read_picture(
    path: str | os.PathLike, decode: Callable[[Image.Image], Image.Image] | None = None, upright: bool = False
) -> Image.Image:
    """The picture in `path` as RGB; its content says the format, not its name.

    Grey, palette, CMYK and transparent pictures are converted as Pillow does, or by `decode(image)`, which may raise
    InputError for what it does not take. With `upright` it is turned as its EXIF orientation says. InputError if it is
    missing, empty, broken, no picture, or has more than 8 bits a sample, of which Pillow would keep the lowest only.
    """
    try:
        with Image.open(path) as image:
            if decode is None and image.mode in _DEEP:
                raise InputError(f"{path}: has more than 8 bits a sample, which RGB cannot hold; save it as 8-bit RGB")
            picture = decode(image) if decode else image.convert("RGB")
            return ImageOps.exif_transpose(picture) if upright else picture
    except InputError:
        raise
    except UnidentifiedImageError as error:
        reason, cause = "not a picture, whatever its name says" if Path(path).stat().st_size else "an empty file", error
    except Exception as error:  # Pillow's decoders answer broken files with OSError, SyntaxError, struct.error, ...
        reason, cause = getattr(error, "strerror", None) or str(error) or type(error).__name__, error
    raise InputError(one_line(f"{path}: cannot be read as a picture ({reason}); replace or remove it")) from cause


def find_pictures(
    path: str | os.PathLike,
    output_dir: str | os.PathLike | None = None,
    endings: Sequence[str] = ENDINGS,
    own: Sequence[str] = (),
    recursive: bool = True,
) -> list[Path]:
    """The picture `path`, or all pictures in the folder `path`, sorted; links are followed.

    Hidden files are passed over, and so are files that end in one of `own`, which demos write, and all of `output_dir`,
    which may lie in the folder. InputError when there is none.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: no such file or folder; give --image_path a picture or a folder of pictures")
    if not root.is_dir():
        return [root]
    output = Path(output_dir).resolve() if output_dir is not None else None
    if output == root.resolve():
        raise InputError(f"--output_dir {output_dir}: the folder of the pictures themselves; give another one")
    pictures, seen = [], {output}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if Path(folder).resolve() in seen:
            subfolders.clear()
            continue
        seen.add(Path(folder).resolve())
        if not recursive:
            subfolders.clear()
        wanted = [name for name in names if name.lower().endswith(tuple(endings)) and name[0] != "."]
        pictures += [Path(folder) / name for name in wanted if not name.lower().endswith(tuple(own))]
    if not pictures:
        raise InputError(f"{path}: no pictures in it ({' '.join(endings)}); give another folder, or one file")
    return sorted(pictures)


def output_stems(pictures: Sequence[Path], root: Path, output_dir: Path) -> list[Path]:
    """Where the files of each picture go, without their ending: in its sub-folder, under its name.

    The name is without suffix, or with it for all pictures when two would have the same.
    """
    names = [path.relative_to(root) if root.is_dir() else Path(path.name) for path in pictures]
    stems = [name.with_suffix("") for name in names]
    return [output_dir / name for name in (stems if len(set(stems)) == len(stems) else names)]


def work_through(pictures: Sequence[Path], stems: Sequence[Path], output_dir: Path, work: Callable) -> int:
    """`work(picture, stem)` for every picture, under a progress bar; the exit status of demo.py.

    What it returns is printed. A picture of several that raises InputError is told and passed over: the status is then
    2, and the other pictures are done. Of one picture alone the InputError goes through.
    """
    failed = 0
    bar = tqdm(pictures, desc="demo", unit="picture", leave=False, disable=None)
    for path, stem in zip(bar, stems, strict=True):
        try:
            told = work(path, stem)
        except InputError as error:
            if len(pictures) == 1:
                raise
            tqdm.write(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if told:
            tqdm.write(told)
    print(f"{len(pictures) - failed} of {len(pictures)} pictures done; files in {output_dir}")
    return 2 if failed else 0
