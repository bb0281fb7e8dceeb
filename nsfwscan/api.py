"""The public functions, `nsfwscan.scan`, `nsfwscan.explain` and `nsfwscan.classify`.

They take the command line's options as keyword arguments, return a `ScanResult`, an `Explanation` and
`Classification`s, and raise the errors of `nsfwscan.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nsfwscan.config import Reader, ScanConfig, StorageConfig, merge
from nsfwscan.models.registry import apply_preset
from nsfwscan.reports.progress import Lines, Progress, Silent, in_notebook
from nsfwscan.storage.text_files import read_text

if TYPE_CHECKING:
    from nsfwscan.execution.layout import Fleet
    from nsfwscan.workflows.classify import Classification
    from nsfwscan.workflows.explain import Explanation
    from nsfwscan.workflows.given_images import Picture
    from nsfwscan.workflows.scan import ScanResult

Path = str | os.PathLike[str]


def scan(
    sources: Path | Iterable[Path],
    out: Path,
    *,
    run_id: str | None = None,
    resume: bool = False,
    preset: str | None = None,
    config: Path | None = None,
    progress: Progress | bool | None = None,
    verbose: bool = False,
    **sections: Any,
) -> ScanResult:
    """Scan media stores and commit a report.

    Args:
        sources: files, directories, `s3://bucket/prefix`, any fsspec URI, or manifests (`.parquet`, `.csv`, `.jsonl`).
        out: the report store, a directory or a URI; the run lies under `runs/<run_id>/`.
        run_id: id of the run; unset: the time (UTC). Resumes an unfinished run with this id, and leaves a committed one
            alone.
        resume: resume the newest unfinished run over the same sources, if there is one; instead of `run_id`.
        preset: a public checkpoint with its label map and policy; see `nsfwscan scan --help`.
        config: a YAML file (a path or a URI) with the sections of `ScanConfig`; the other arguments override it.
        progress: receiver of the scan's progress; True: lines on standard output, False: none; unset: lines in a
            notebook, none elsewhere.
        verbose: show Ray's output.
        **sections: sections of `ScanConfig`, e.g. `model={"uri": "checkpoints/vit"}`, `policy="policy.yaml"`,
            `storage={"endpoint_url": "http://localhost:9000"}`, `report={"save_images": True}`.

    Raises:
        NsfwscanError: the scan cannot run; the message says what to do.
        BalanceError: the report does not account for every listed object; nothing was committed.
    """
    from nsfwscan.execution.choose import choose_executor
    from nsfwscan.execution.ray_session import check_reachable
    from nsfwscan.workflows.scan import run_scan

    settings = _settings(sources, out, preset, config, sections)
    check_reachable(settings.engine.cluster)
    fleets: list[Fleet] = []
    engine = partial(choose_executor, verbose=verbose, began=fleets.append)
    return run_scan(settings, run_id, engine, _progress(progress), resume=resume, fleets=fleets)


def _progress(wanted: Progress | bool | None) -> Progress:
    if wanted is None or isinstance(wanted, bool):
        is_shown = in_notebook() if wanted is None else wanted
        return Lines(Console(file=sys.stdout, force_jupyter=False)) if is_shown else Silent()
    return wanted


def explain(
    sources: Path | Iterable[Path],
    out: Path,
    *,
    preset: str | None = None,
    config: Path | None = None,
    **sections: Any,
) -> Explanation:
    """Return what `scan` with the same arguments would do: machines, actors, memory, hours and money.

    This lists no source, reads no object, writes nothing, and asks Ray only at a given address (or `RAY_ADDRESS`).

    Args:
        sources, out, preset, config, **sections: as for `scan`.

    Raises:
        NsfwscanError: the model, the cluster or the report store cannot be reached.
    """
    from nsfwscan.workflows.explain import explain_scan

    return explain_scan(_settings(sources, out, preset, config, sections))


def _settings(
    sources: Path | Iterable[Path], out: Path, preset: str | None, config: Path | None, sections: dict[str, Any]
) -> ScanConfig:
    uris = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    given = {"source": {"uris": [os.fspath(uri) for uri in uris]}, "out": os.fspath(out)}
    return load_config(preset, config, merge(sections, given))


def classify(
    images: Picture | Iterable[Picture], *, preset: str | None = None, config: Path | None = None, **sections: Any
) -> list[Classification]:
    """Classify images in this process, without Ray; on a GPU if there is one.

    Args:
        images: one image, or an iterable of them, which is taken a few at a time: paths, URIs, bytes of image files,
            files opened in binary mode, Pillow images, NumPy arrays (uint8, [H, W] or [H, W, 1, 3 or 4]). Pixels are
            matched by PDQ alone: the hashes of the file that they came from are not known.
        preset, config, **sections: as for `scan`.

    Returns:
        One `Classification` for each image, in order; unreadable images have a status and an error instead of scores.

    Raises:
        NsfwscanError: the model or the policy cannot be loaded; or something is no image at all.
    """
    from nsfwscan.workflows.classify import classify_images

    settings = load_config(preset, config, merge(sections, {"source": {"uris": ()}, "out": ""}))
    return classify_images(images, settings)


def load_config(preset: str | None, config: Path | None, sections: dict[str, Any]) -> ScanConfig:
    """Return the configuration of a call: preset, then file, then the given sections; later ones win.

    Raises:
        ConfigError: a key or value is wrong.
        ModelError: there is no such preset.
    """
    path = None if config is None else os.fspath(config)
    return ScanConfig.load(path, sections, apply_preset(preset) if preset else {}, configuration_reader(sections))


def configuration_reader(sections: dict[str, Any]) -> Reader:
    """Return what reads a configuration file, which may lie in a store: it is reached as the given section `storage`
    says, and not the file's own. Raises ConfigError where the section is wrong."""
    return partial(read_text, storage=StorageConfig.of(sections.get("storage", {})), what="the configuration")
