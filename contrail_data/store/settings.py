"""The settings of a store of samples."""

from dataclasses import dataclass

from contrail_data.composites import Composite
from contrail_data.store.schema import ArraySpec, Codec, PixelDtype


@dataclass(frozen=True)
class StoreSettings:
    """Everything apart from the source that determines the bytes of a store of samples."""

    composite: Composite
    dtype: PixelDtype = PixelDtype.UINT8
    codec: Codec = Codec.NONE
    size: int = 256
    """Rows and columns of the stored tiles, in pixels."""
    label_shift: tuple[float, float] = (0.5, 0.5)
    """(dy, dx) in pixels before any resizing: how far the labels lie down and right of the image. OpenContrails has
    (0.5, 0.5)."""

    def arrays(self, frames: int, gaps: bool = False, instances: int = 0) -> dict[str, ArraySpec]:
        """Describe the pixel arrays of a store with these settings.

        Args:
            frames: Frames per sample.
            gaps: Whether pixels may be missing, so that the store needs the array `valid`.
            instances: Most contrails that were marked one by one in a sample; 0 for a store without `instance_masks`.

        Returns:
            The specification of each pixel array by name.
        """
        plane = (self.size, self.size)
        image = ArraySpec((frames, len(self.composite.channels), *plane), self.dtype, self.codec)
        label = ArraySpec(plane, PixelDtype.UINT8, Codec.ZSTD)
        valid = {"valid": ArraySpec((frames, *plane), PixelDtype.UINT8, Codec.ZSTD)} if gaps else {}
        arrays = {"image": image, "mask": label, "annotators": label, **valid}
        if instances:
            arrays["instance_masks"] = ArraySpec((instances, *plane), PixelDtype.UINT8, Codec.ZSTD)
        return arrays
