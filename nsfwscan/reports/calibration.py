"""Page of a calibration: the reliability diagram before and after, and how true the probabilities are.

Made from the calibration alone, by `nsfwscan calibrate STORE --page FILE`; one file without scripts, requests or
pictures of scanned images.
"""

from __future__ import annotations

from collections.abc import Iterator

from nsfwscan.models.learned import in_words as learned_in_words
from nsfwscan.models.reliability import Reliability
from nsfwscan.reports.charts import Chart, Mark, marked, points
from nsfwscan.reports.html import page_environment
from nsfwscan.runs.calibrations import Calibration


def render_calibration(store: str, made: Calibration) -> str:
    """Return the page (HTML).

    Args:
        store: the store's URI.
    """
    template = page_environment().get_template("calibration.html")
    learned = list(learned_in_words(made.origin.learned, made.origin.unknown))
    sides = [made.before, made.after]
    return template.render(store=store, made=made, chart=_diagram(made), sides=sides, learned=learned)


def _diagram(made: Calibration) -> Chart:
    legend = [
        (0, f"nsfw_score, ECE {made.before.ece.value:.3f}"),
        (1, f"calibrated_score, ECE {made.after.ece.value:.3f}"),
    ]
    marks = [*_marks(made.before, 0), *_marks(made.after, 1)]
    diagonal = points([(0, 0), (1, 1)])
    return Chart("Objects that were not fitted", "what was said", "share removed", diagonal, legend, marks=marks)


def _marks(measured: Reliability, series: int) -> Iterator[Mark]:
    for one in measured.bins:
        removed = one.removed
        words = f"{one.objects:,} objects, said {one.said:.3f}, removed {removed.value:.3f}"
        yield marked(one.said, removed.value, (removed.low, removed.high), one.share, series, words)
