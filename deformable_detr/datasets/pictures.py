"""Pictures read from files as RGB, whole or with one clear error."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from shared import InputError
from shared.files import one_line

_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")


def load_image(path: str | Path) -> Image.Image:
    """The picture in `path` as RGB; grey, palette, CMYK and transparent ones are converted, by Pillow as the reference.

    InputError if it is missing, empty, broken, no picture, or has more than 8 bits a sample, of which Pillow's
    conversion would keep the lowest only.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.mode not in _DEEP:
                return image.convert("RGB")
        raise InputError(f"{path}: has more than 8 bits a sample, which RGB cannot hold; save it as 8-bit RGB")
    except InputError:
        raise
    except UnidentifiedImageError as error:
        reason = "not a picture, whatever its name says" if path.stat().st_size else "the file is empty"
        cause = error
    except Exception as error:  # Pillow's decoders answer broken files with OSError, SyntaxError, struct.error, ...
        reason, cause = getattr(error, "strerror", None) or str(error) or type(error).__name__, error
    raise InputError(one_line(f"{path}: cannot be read as a picture ({reason}); fetch it again")) from cause
