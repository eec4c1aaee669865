"""Pictures as files: one as PNG, several as an animated GIF."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from contrail_data.storage.files import write_atomically

_FRAME_MS = 500


def write_images(path: Path, images: Sequence[Image.Image]) -> None:
    """Write pictures as an image file that appears whole or not at all.

    A frame of a GIF has 256 colours. They are chosen by an octree, which keeps the colours of thin lines and text.
    Pillow's default, the median cut, gives these the colours of what is around them.

    Args:
        path: The file. Its suffix selects the format; formats other than `.gif` hold the first picture.
        images: The pictures, RGB, of one size.
    """
    buffer = io.BytesIO()
    if path.suffix == ".gif":
        first, *others = (image.quantize(256, Image.Quantize.FASTOCTREE) for image in images)
        first.save(buffer, "gif", save_all=True, append_images=others, duration=_FRAME_MS, loop=0)
    else:
        images[0].save(buffer, path.suffix[1:])
    write_atomically(path, [buffer.getvalue()])
