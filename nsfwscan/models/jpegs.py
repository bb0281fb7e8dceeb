"""Decode JPEGs on a GPU with nvImageCodec, and resize them there to the models' pixels.

Files are those that `images/left_to_gpu.py` let through. What the library refuses or reads otherwise than their header
says, and what ends in rows of one colour, as a file does that was cut off, is not decoded here. A picture is decoded in
full and resized across, then down, with what torch calls antialiasing; each pass is rounded, as Pillow's is. So a pixel
is at most one level of 255 from the CPU's where the decoded pixels are equal (bicubic on noise: a few levels).

The same code runs on nvImageCodec's own CPU decoders, for tests; it has not yet run on a GPU.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.dlpack import from_dlpack

from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.images.left_to_gpu import INSTALL, RESAMPLED, refuse_without_library
from nsfwscan.images.preprocessing import Geometry

Device = Literal["cuda", "cpu"]
_TRANSPOSED, _MIRRORED, _FLIPPED = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF orientations that need: rows for columns; then left for right; then top for bottom."""
_TAIL = 8
"""Rows in the smallest block of a JPEG: what was cut off within one ends in at least as many of one colour."""
_PROBE_LEVELS = 8
"""Levels of 255 by which decoders may differ on a smooth picture."""


@dataclass(frozen=True)
class EncodedJpeg:
    """A file, the EXIF orientation to undo, and its (width, height) in pixels once that is done."""

    file: bytes | memoryview
    orientation: int
    size: tuple[int, int]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) in the file."""
        return self.size[::-1] if self.orientation in _TRANSPOSED else self.size


class JpegDecoder:
    """A decoder on the GPU of this process, or, for tests, on its CPU.

    Raises ConfigError where the extra, CUDA or nvJPEG is missing.
    """

    def __init__(self, geometries: Sequence[Geometry], device: Device = "cuda") -> None:
        refuse_without_library()
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--decode gpu needs a GPU with CUDA, and torch finds none here: use --decode fast")
        self._geometries, self._device = geometries, device
        with _silence():
            from nvidia import nvimgcodec

            self._codec: Any = nvimgcodec
            kinds = ("HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU") if device == "cuda" else ("CPU_ONLY",)
            self._decoder = nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if device == "cpu" else torch.cuda.current_device(),
                max_num_cpu_threads=1,
                backends=[nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, kind)) for kind in kinds],
                options=":fancy_upsampling=1",
            )
            self._params = nvimgcodec.DecodeParams(
                apply_exif_orientation=False,
                color_spec=nvimgcodec.ColorSpec.SRGB,
                sample_format=nvimgcodec.SampleFormat.I_RGB,
            )
            self._probe()

    def __call__(self, files: Sequence[EncodedJpeg]) -> tuple[NDArray[np.bool_], list[NDArray[np.uint8]]]:
        """Decode a batch that the device has room for.

        Returns:
            Whether each file was decoded; and, for each geometry, uint8 [decoded files, `nbytes`].

        Raises:
            ModelError: the GPU's memory does not hold the batch, or the GPU fails.
        """
        try:
            with torch.inference_mode():
                return self._made(list(self._decoded(files)), files)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                "the GPU's memory does not hold a batch of decoded JPEGs beside the model: use a smaller --batch-size, "
                "or --decode fast"
            ) from error
        except RuntimeError as error:
            raise ModelError(f"decoding on the GPU failed ({error}): --decode fast does without it") from error

    def _decoded(self, files: Sequence[EncodedJpeg]) -> Iterator[torch.Tensor | None]:
        """Yield each file's pixels as they are stored, uint8 [height, width, 3] on the device; None where refused."""
        streams = [self._parsed(one) for one in files]
        stream = torch.cuda.current_stream().cuda_stream if self._device == "cuda" else 0
        known = [one for one in streams if one is not None]
        found = iter(self._decoder.decode(known, params=self._params, cuda_stream=stream) if known else ())
        for one, parsed in zip(files, streams, strict=True):
            image = None if parsed is None else next(found)
            pixels = None if image is None else self._tensor(image)
            shape = (*one.stored_size[::-1], 3)
            yield pixels if pixels is not None and tuple(pixels.shape) == shape else None

    def _parsed(self, one: EncodedJpeg) -> Any:
        """Return the library's view of a file; None where it is another than ours."""
        data = bytes(one.file)
        if not data.startswith(b"\xff\xd8\xff"):  # nothing else is to meet its parsers
            return None
        try:
            parsed = self._codec.CodeStream(data)
            agrees = parsed.codec_name == "jpeg" and (parsed.width, parsed.height) == one.stored_size
            return parsed if agrees and parsed.num_channels in (1, 3) and parsed.precision == 8 else None
        except RuntimeError:
            return None

    def _tensor(self, image: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image)) if self._device == "cpu" else from_dlpack(image)

    def _made(
        self, images: Sequence[torch.Tensor | None], files: Sequence[EncodedJpeg]
    ) -> tuple[NDArray[np.bool_], list[NDArray[np.uint8]]]:
        flat = [_ends_flat(image) for image in images if image is not None]
        cut = iter(torch.stack(flat).tolist() if flat else ())  # at once: asking the device takes longer than looking
        done = np.array([image is not None and not next(cut) for image in images], np.bool_)
        whole = [
            _upright(image, one.orientation)
            for image, one, is_done in zip(images, files, done, strict=True)
            if image is not None and is_done
        ]
        return done, [self._resized(whole, geometry) for geometry in self._geometries]

    def _resized(self, images: Sequence[torch.Tensor], geometry: Geometry) -> NDArray[np.uint8]:
        if not images:
            return np.empty((0, geometry.nbytes), np.uint8)
        found: NDArray[np.uint8] = torch.stack([resized(image, geometry) for image in images]).cpu().numpy()
        return found.reshape(len(images), geometry.nbytes)

    def _probe(self) -> None:
        """Decode a picture of our own. Raises ConfigError where that fails: every file would be left to the CPU."""
        smooth, out = Image.linear_gradient("L").resize((64, 48)).convert("RGB"), io.BytesIO()
        smooth.save(out, "JPEG")
        [image] = self._decoded([EncodedJpeg(out.getvalue(), 1, smooth.size)])
        if image is None or np.abs(image.cpu().numpy() - np.asarray(smooth, np.float32)).max() > _PROBE_LEVELS:
            raise ConfigError(
                "nvImageCodec decodes no JPEG on this GPU: are nvidia-nvjpeg-cu12 and a driver for CUDA 12 or newer "
                f"there ({INSTALL})? Else use --decode fast"
            )


def resized(image: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return the model's pixels of an upright picture, uint8 [height, width, 3], as `geometry.apply` makes them."""
    mode = RESAMPLED[geometry.resample]
    across, down = geometry.resized((image.shape[1], image.shape[0]))
    values = image.permute(2, 0, 1)[None].float()
    for shape in ((values.shape[2], across), (down, across)):
        if tuple(values.shape[2:]) != shape:
            values = interpolate(values, size=shape, mode=mode, antialias=True, align_corners=False)
            values = values.add_(0.5).floor_().clamp_(0, 255)
    height, width, _ = geometry.shape
    if geometry.letterbox:
        values = torch.nn.functional.pad(values, (0, width - across, 0, height - down))
    top, left = ((down - height) // 2, (across - width) // 2) if geometry.crop else (0, 0)
    return values[0, :, top : top + height, left : left + width].permute(1, 2, 0).to(torch.uint8)


def _upright(image: torch.Tensor, orientation: int) -> torch.Tensor:
    image = image.transpose(0, 1) if orientation in _TRANSPOSED else image
    turned = [axis for axis, ones in ((1, _MIRRORED), (0, _FLIPPED)) if orientation in ones]
    return image.flip(turned) if turned else image


def _ends_flat(image: torch.Tensor) -> torch.Tensor:
    """Return whether the last rows, as they are stored, have one colour."""
    tail = image[-_TAIL:]
    return (tail == tail[-1, -1]).all()


@contextmanager
def _silence() -> Iterator[None]:
    """Let the libraries' loaders say nothing on standard error: they miss those of formats that nobody asks for."""
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
