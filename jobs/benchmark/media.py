"""Make the benchmark's media store: generated JPEGs in a user-content mix of sizes, made once and kept.

Pictures are colour noise with the spectrum of photographs and some shapes on it, so that their JPEGs have as many bytes
a pixel as photographs and take as long to decode; the benchmark needs no real photographs. A store
(`NNN/NNNNNN.jpg`) of more objects than distinct pictures repeats the pictures with other bytes behind their end.
Pictures lie in a folder named by a digest of their recipe, so a changed recipe makes new ones.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nsfwscan.config import digest_of

QUALITY = 85
SUBSAMPLING = "4:2:0"
_VERSION = 1
"""Raise it when the code makes other pictures from the same recipe."""
_EXPONENT = 1.3
"""Amplitude falls with frequency to this power. Photographs have 1 to 1.5 (Field 1987, Relations between the statistics
of natural images and the response properties of cortical cells); at 1.3 and quality 85 a JPEG takes 0.2 to 0.4 bytes a
pixel, as photographs do."""
_CONTRAST = (48.0, 16.0, 16.0)
"""Standard deviations of luma and of the two chroma planes, on a scale of 255."""
_FOLDER = 1000


@dataclass(frozen=True)
class Share:
    """Pictures of one size."""

    width: int
    height: int
    of_block: int
    """Number of pictures of this size in each block."""


USER_CONTENT = (
    Share(500, 375, 6),
    Share(1080, 1080, 5),
    Share(1600, 1200, 4),
    Share(2048, 1536, 3),
    Share(4000, 3000, 2),
)
"""30 % previews and old uploads, 25 % squares as social networks keep them, 20 % and 15 % resized photographs, 10 % as
the phone took them, at 12 megapixels; 2.4 megapixels on average. An assumption, not a statistic."""
SMALL = tuple(Share(share.width // 8, share.height // 8, share.of_block) for share in USER_CONTENT)
"""The same mix at an eighth of each side: to try the benchmark itself."""
TINY = (Share(128, 96, 20),)
"""Thumbnails: objects so small that the cost around decoding and the model shows."""
MIXES = {"user-content": USER_CONTENT, "small": SMALL, "tiny": TINY}


def block_of(mix: Sequence[Share]) -> int:
    """Return the number of pictures in a block: every block holds the mix exactly."""
    return sum(share.of_block for share in mix)


def whole_blocks(mix: Sequence[Share], images: float) -> int:
    """Return the nearest number of images that holds the mix exactly; at least one block."""
    block = block_of(mix)
    return max(1, round(images / block)) * block


def megapixels(mix: Sequence[Share]) -> float:
    """Return the megapixels of an average image."""
    return sum(s.width * s.height * s.of_block for s in mix) / block_of(mix) / 1e6


def make_pictures(work: Path, mix: Sequence[Share], distinct: int, seed: int = 0) -> list[Path]:
    """Return the first `distinct` pictures of a mix; make those that are missing."""
    recipe = [_VERSION, seed, QUALITY, SUBSAMPLING, _EXPONENT, _CONTRAST, [asdict(share) for share in mix]]
    folder = work / f"pictures-{digest_of(recipe)[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(distinct)]
    for number, path in enumerate(paths):
        if not path.exists():
            unfinished = path.with_suffix(".partial")
            unfinished.write_bytes(_jpeg(mix, number, seed))
            unfinished.rename(path)
    _canvas.cache_clear()
    return paths


def make_store(work: Path, pictures: Sequence[Path], images: int) -> Path:
    """Return a media store of `images` objects; the first call makes it.

    The objects are the pictures in turn, each with its number behind the end of the image: no two have the same bytes,
    because a scan would score only one of them.
    """
    store = work / f"numbered-{pictures[0].parent.name}-{len(pictures)}-{images}"
    if store.exists():
        return store
    unfinished = store.with_suffix(".partial")
    for number in range(images):
        folder = unfinished / f"{number // _FOLDER:03d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(pictures[number % len(pictures)].read_bytes() + number.to_bytes(8))
    unfinished.rename(store)
    return store


def make_mixed_store(work: Path, pictures: Sequence[Path], images: int) -> Path:
    """Return a media store of `images` objects, 5 % animations and 2 % videos among them, spread evenly; the first call
    makes it. Needs PyAV.

    An animation has 24 frames of 320 x 240 (GIF), a video ten seconds of 640 x 360 (MP4, H.264): a picture that moves
    on, and another one for a moment in the middle.
    """
    photographs = make_store(work, pictures, images)
    store = work / f"mixed-{photographs.name}"
    if store.exists():
        return store
    unfinished = store.with_suffix(".partial")
    moving = [
        (_animation(one, other), _video(one, other)) for one, other in zip(pictures[:4], pictures[4:8], strict=True)
    ]
    for number, path in enumerate(sorted(photographs.rglob("*.jpg"))):
        gif, mp4 = moving[number % len(moving)]
        to = unfinished / path.relative_to(photographs)
        to.parent.mkdir(parents=True, exist_ok=True)
        if number % 20 == 10:
            to.with_suffix(".gif").write_bytes(gif + number.to_bytes(8))
        elif number % 50 == 25:
            to.with_suffix(".mp4").write_bytes(mp4 + struct.pack(">I4sQ", 16, b"free", number))
        else:
            to.hardlink_to(path)
    unfinished.rename(store)
    return store


def _frames(one: Path, other: Path, count: int, size: tuple[int, int]) -> list[Image.Image]:
    wide, odd = Image.open(one).resize((2 * size[0], size[1])), Image.open(other).resize(size)
    shifts = [size[0] * number // count for number in range(count)]
    moving = [wide.crop((shift, 0, shift + size[0], size[1])) for shift in shifts]
    moving[count // 2] = odd
    return moving


def _animation(one: Path, other: Path) -> bytes:
    first, *others = _frames(one, other, 24, (320, 240))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def _video(one: Path, other: Path) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for image in _frames(one, other, 250, (640, 360)):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def bytes_per_pixel(paths: Sequence[Path]) -> float:
    """Return the encoded bytes per pixel over all these files."""
    sizes = [Image.open(path).size for path in paths]
    return sum(path.stat().st_size for path in paths) / sum(width * height for width, height in sizes)


def _jpeg(mix: Sequence[Share], number: int, seed: int) -> bytes:
    """Encode picture `number`: its size by the block's shuffled order of the mix, its content by seed and number."""
    block, place = divmod(number, block_of(mix))
    order = [share for share in mix for _ in range(share.of_block)]
    share = order[np.random.default_rng([seed, block]).permutation(len(order))[place]]
    random = np.random.default_rng([seed, number, 1])
    canvas = _canvas(share.width, share.height, seed)
    top, left = (int(random.integers(0, canvas.shape[axis] - side + 1)) for axis, side in enumerate(_sides(share)))
    noise = canvas[top : top + share.height, left : left + share.width]
    noise = noise[:: 1 - 2 * int(random.integers(2)), :: 1 - 2 * int(random.integers(2))]
    image = Image.fromarray(np.ascontiguousarray(noise), "YCbCr").convert("RGB")
    _draw_shapes(image, random)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def _sides(share: Share) -> tuple[int, int]:
    return share.height, share.width


@lru_cache(maxsize=8)
def _canvas(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Return Y, Cb and Cr planes, an eighth larger than a picture, to cut pictures from: uint8 [H, W, 3]."""
    random = np.random.default_rng([seed, width, height, 2])
    shape = height + height // 8, width + width // 8
    planes = [128 + contrast * _noise(random, shape) for contrast in _CONTRAST]
    return np.stack([plane.clip(0, 255).astype(np.uint8) for plane in planes], axis=-1)


def _noise(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return Gaussian noise whose amplitude falls with frequency; mean 0, standard deviation 1: float32 [H, W]."""
    rows = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # the noise has mean 0
    white = [random.standard_normal(frequency.shape, dtype=np.float32) for _ in range(2)]
    spectrum = (white[0] + 1j * white[1]) / frequency**_EXPONENT
    noise = np.fft.irfft2(spectrum, shape)
    scaled: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return scaled


def _draw_shapes(image: Image.Image, random: np.random.Generator) -> None:
    """Draw a few plain ellipses and boxes: photographs have edges and flat parts, too."""
    draw = ImageDraw.Draw(image)
    for number in range(int(random.integers(1, 5))):
        x, y = (int(random.integers(0, side)) for side in image.size)
        width, height = (int(side * random.uniform(0.05, 0.3)) for side in image.size)
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x, y, x + width, y + height), fill=colour)
