"""Images and depth images read from files; a file that cannot be read is one clear error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared import InputError
from shared.files import one_line


def _read(path: str | Path, decode: Callable[[Image.Image], object]):
    try:
        with Image.open(path) as image:
            return decode(image)
    except UnidentifiedImageError as error:
        reason = "not a picture, whatever its name says" if Path(path).stat().st_size else "the file is empty"
        cause = error
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... for broken files
        reason, cause = getattr(error, "strerror", None) or str(error) or type(error).__name__, error
    raise InputError(one_line(f"{path}: cannot be read as a picture ({reason}); fetch it again")) from cause


def load_image(path: str | Path) -> Image.Image:
    """The image in `path` as RGB, of its own size; the format is recognised by content, not by name.

    InputError if it is missing, empty, broken or no image.
    """
    return _read(path, lambda image: image.convert("RGB"))


def load_depth_png(path: str | Path) -> np.ndarray:
    """A depth image of KITTI's depth benchmark: metres, float32 [h, w], 0 where nothing was measured.

    16 bits a pixel, 256 to the metre (NOTES 2.2). InputError as `load_image`, and for an image of another mode.
    """

    def decode(image: Image.Image) -> np.ndarray:
        if image.mode not in ("I;16", "I;16B", "I"):
            raise InputError(f"{path}: is a picture of mode {image.mode}, not 16-bit depth; fetch proj_depth again")
        return np.asarray(image).astype(np.float32) / 256

    return _read(path, decode)
