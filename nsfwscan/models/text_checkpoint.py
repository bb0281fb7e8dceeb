"""Read what a checkpoint that classifies text says of itself, without its weights.

What is not understood raises `ModelError`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from nsfwscan.errors import ModelError
from nsfwscan.models.checkpoint import digest_of_folder

TOKENIZER = re.compile(
    r"^(tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)"
    r"|merges\.txt|(spiece|sentencepiece\.bpe|tokenizer)\.model)$"
)
"""Names of a tokenizer's files."""
_PROBLEMS = (None, "single_label_classification", "multi_label_classification")


def is_of_text(settings: dict[str, Any]) -> bool:
    """Return whether config.json is that of a transformers sequence classifier."""
    named = settings.get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForSequenceClassification") for name in named)


def labels_of_text(settings: dict[str, Any], uri: str) -> tuple[str, ...]:
    """Return the labels of a sequence classifier, in its order: of one label out of several, or each by itself."""
    names, problem = settings.get("id2label"), settings.get("problem_type")
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))} or len(names) < 2:
        raise ModelError(f"{uri}: its config.json names no labels (id2label) for 0, 1, …: two at least")
    if problem not in _PROBLEMS:
        raise ModelError(f"{uri}: its problem_type is {problem!r}, and no classification")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def digest_of_text_folder(folder: Path) -> str:
    """Return the hex SHA-256 over a checkpoint's weights, configuration and tokenizer. Raises ModelError as
    `digest_of_folder`, and without a tokenizer."""
    files = sorted(path for path in folder.iterdir() if TOKENIZER.match(path.name))
    if not files:
        raise ModelError(f"{folder}: no tokenizer (tokenizer.json, vocab.txt, …): save it with the checkpoint")
    total = hashlib.sha256(digest_of_folder(folder).encode())
    for path in files:
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
