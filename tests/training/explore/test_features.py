"""Eyes give a vector for each image, whatever the backbone, and the same for an image whatever is beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsfwscan.config import DecodeConfig, StorageConfig
from nsfwscan.errors import ModelError
from tests.checkpoints import make_dinov2, make_swin, make_vit
from tests.later import later
from tests.training.pictures import blobs, encoded, photographs

pytestmark = pytest.mark.long

datasets = later("datasets")
features = later("training.explore.features")


def files() -> datasets.Dataset:
    shown = [encoded(image.resize((200, 150))) for image in photographs().values()] + [
        encoded(blobs(i)) for i in range(5)
    ]
    return datasets.Dataset.from_dict({"bytes": shown})


@pytest.mark.parametrize(("make", "size"), [(make_vit, 64), (make_dinov2, 64), (make_swin, 64)])
def test_backbones(tmp_path: Path, make: Callable[[Path], Path], size: int) -> None:
    """The last layer of plain and hierarchical transformers: as many numbers as it has, twice, and all of them finite."""
    extractor = features.load_extractor(str(make(tmp_path)), StorageConfig())
    found = features.vectors_of(files(), extractor, DecodeConfig())
    assert found.shape == (11, size) and np.isfinite(found).all()
    assert len(np.unique(found.round(3), axis=0)) == 11
    assert str(tmp_path) in extractor.basis


def test_the_embedded_eye() -> None:
    """The score of open_nsfw and 197 simple measures; a file that does not decode any more is black, and no error."""
    extractor = features.load_extractor("embedded:open-nsfw", StorageConfig())
    given = datasets.concatenate_datasets([files(), datasets.Dataset.from_dict({"bytes": [b"gone"]})])
    found = features.vectors_of(given, extractor, DecodeConfig())
    assert found.shape == (12, 198) and np.isfinite(found).all()


def test_simple_measures_tell_drawings_from_photographs() -> None:
    """Few colours and even areas against many; the measures do not depend on the neighbours."""
    random = np.random.default_rng(0)
    drawing = np.kron(random.integers(0, 2, (8, 8, 3)), np.full((28, 28, 1), 200)).astype(np.uint8)
    photo = np.asarray(next(iter(photographs().values())).resize((224, 224)))
    both = features.simple_measures(np.stack([drawing, photo]))
    assert both[0, -2] > 0.8 > both[1, -2] and both[0, -1] < 3 < both[1, -1]
    assert np.array_equal(both[1], features.simple_measures(photo[None])[0])


def test_no_such_checkpoint(tmp_path: Path) -> None:
    """A model that is not there is an error that names it."""
    with pytest.raises(ModelError, match="absent"):
        features.load_extractor(str(tmp_path / "absent"), StorageConfig())
