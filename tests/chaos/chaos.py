"""The chaos test: a scan is killed and resumed until it is done, and compared with one that nothing disturbed.

    python -m tests.chaos.chaos [--seed N] [--objects N] [--form fused] [--form split]

In: a seed and how much to do. Out: the log of what struck and when, and what it came to. Goes wrong: any difference to
the undisturbed run, and what `disturbed.py` says: a `ChaosError`; the seed and the objects bring it back.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow as pa
import yaml

from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.layout import Layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from nsfwscan.workflows.scan import run_scan
from tests.chaos.cluster import Resources, TwoNodes
from tests.chaos.disturbed import ChaosError, Disturbed
from tests.chaos.faults import StoreFaults, Target, schedule
from tests.chaos.stores import RUN_ID, SOURCE, Stores, differences
from tests.checkpoints import make_vit
from tests.s3.servers import FaultyProxy, moto_server

Say = Callable[[str], None]

_NSFWSCAN = (sys.executable, "-m", "nsfwscan")


@dataclass(frozen=True)
class Form:
    """A cluster, a model, and what strikes."""

    head: Resources
    second: Resources
    strikes: Mapping[Target, int]
    vit: bool = False
    """A small checkpoint instead of the embedded model, which no GPU gets to see."""
    reports_on_s3: bool = False
    shard_rows: int = 24
    limit_s: float = 1800.0


FORMS = {
    "fused": Form(
        {"num_cpus": 1},
        {"num_cpus": 1},
        {"start": 1, "driver": 2, "cpu": 4, "pulse": 1, "node": 2, "commit": 1},
    ),
    "split": Form(
        {"num_cpus": 3, "num_gpus": 1},  # Ray only counts them; torch finds no device and computes on the CPU
        {"num_cpus": 2, "num_gpus": 1},
        {"start": 1, "driver": 2, "cpu": 2, "model": 3, "stage": 1, "pulse": 1, "node": 2, "commit": 1},
        vit=True,
        reports_on_s3=True,
    ),
}
SHORT = Form({"num_cpus": 1}, {"num_cpus": 1}, {"driver": 1, "cpu": 2}, shard_rows=16)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a disturbed scan."""

    objects: int
    attempts: int
    struck: Counter[str]
    """Kills while there was something to do, by target."""
    failed: Counter[str]
    """Requests to the store, by kind of fault."""
    reads: int
    """Of media, failed ones included."""
    spared: int
    """Objects that were staged when the last driver was killed, and not read again."""

    def __str__(self) -> str:
        return (
            f"{self.objects:,} objects with one true row each after {self.attempts} attempts, "
            f"{self.struck.total()} kills ({_told(self.struck)}) and {self.failed.total()} faults of the store "
            f"({_told(self.failed)}); {self.reads:,} reads, none of the {self.spared:,} that were staged before"
        )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def chaos(form: Form, objects: int, seed: int, say: Say = print) -> Outcome:
    """Scan so many objects twice, once disturbed, and compare.

    Raises:
        ChaosError: what must hold did not.
    """
    began = time.monotonic()

    def tell(what: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {what}")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        server = stack.enter_context(moto_server())
        proxy = stack.enter_context(FaultyProxy(server))
        keys = {name: value for name, value in server.environment().items() if name != "AWS_ENDPOINT_URL"}
        cluster = stack.enter_context(TwoNodes(form.head, form.second, keys))
        stores = Stores(server, folder, reports_on_s3=form.reports_on_s3)
        model = str(make_vit(folder / "vit")) if form.vit else "embedded:open-nsfw"
        stores.fill(objects, seed)
        tell(f"{objects:,} objects in the media store")
        expected = _undisturbed(form, stores, model)
        tell("scanned undisturbed")
        faults, chance = StoreFaults(seed), random.Random(seed)
        faults.set_on(proxy)
        disturbed = Disturbed(stores, cluster, faults, tell, began + form.limit_s)
        command = _command(form, stores, model, proxy.endpoint.endpoint_url, cluster.ready())
        disturbed.run(command, schedule(form.strikes, chance), chance)
        proxy.clear()
        _check(stores, expected, killed_at_commit="commit" in disturbed.struck)
        reads = sum(gets for name, gets in faults.gets.items() if name.startswith(SOURCE.removeprefix("s3://")))
        failed = proxy.injected
        del failed["delay"]  # harms nobody
        return Outcome(objects, disturbed.attempts, disturbed.struck, failed, reads, disturbed.spared)


def _undisturbed(form: Form, stores: Stores, model: str) -> pa.Table:
    """Return the report of a scan in this process, without Ray, and with as many threads as an actor has: in the last bits,
    torch's scores depend on that."""

    def engine(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        threads = max(1, (os.cpu_count() or 1) // 2) if form.vit else 1
        return run_inline(job, shards, deadline, Layout("inline", 1, threads=threads))

    sections = {"engine": {"shard_rows": form.shard_rows}, "model": {"uri": model}, "report": {"max_error_rate": 1.0}}
    config = stores.config(str(stores.folder / "undisturbed"), **sections)
    run_scan(config, RUN_ID, engine, Silent())
    return stores.report(config.out)


def _command(form: Form, stores: Stores, model: str, endpoint_url: str, address: str) -> list[str]:
    file = stores.folder / "chaos.yaml"
    limits = {"shard_rows": form.shard_rows, "max_attempts": 100, "stall_timeout_s": 300}
    file.write_text(yaml.safe_dump({"engine": limits, "report": {"max_error_rate": 1.0}}))
    options = {
        "--out": stores.out,
        "--config": str(file),
        "--model": model,
        "--endpoint-url": endpoint_url,
        "--address": address,
    }
    return [*_NSFWSCAN, "scan", SOURCE, *(word for option in options.items() for word in option)]


def _check(stores: Stores, expected: pa.Table, *, killed_at_commit: bool) -> None:
    """The report against the store and the undisturbed one; what `verify` says; what is left in staging."""
    found = stores.report(stores.out)
    if found["uri"].to_pylist() != stores.uris:
        raise ChaosError("the report has other objects than the store: " + "\n".join(differences(expected, found)))
    if wrong := differences(expected, found):
        raise ChaosError("the report differs from that of the undisturbed run: " + "\n".join(wrong))
    if (said := _nsfwscan(stores, "verify", stores.run.folder.uri)) != f"{RUN_ID}  as committed\n":
        raise ChaosError(f"verify says:\n{said}")
    if killed_at_commit:  # in the moment after `_SUCCESS`, it may be
        _nsfwscan(stores, "gc", stores.out)
    if left := stores.run.store.names("staging"):
        raise ChaosError(f"staging is not empty: {', '.join(left)}")


def _nsfwscan(stores: Stores, *words: str) -> str:
    """Return what the command says, errors and a bad exit code included."""
    environment = {**os.environ, **stores.server.environment()}
    done = subprocess.run([*_NSFWSCAN, *words], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + (f"exit code {done.returncode}\n" if done.returncode else "")


@click.command()
@click.option(
    "--seed", type=int, envvar="SEED", help="Of the media, the faults and the strikes; default: another each time."
)
@click.option("--objects", type=click.IntRange(100), envvar="OBJECTS", default=3000, show_default=True)
@click.option("--form", "forms", multiple=True, type=click.Choice(list(FORMS)), default=list(FORMS), show_default=True)
def main(seed: int | None, objects: int, forms: tuple[str, ...]) -> None:
    """Kill a scan at random times, resume it until it is done, and compare it with an undisturbed one."""
    seed = random.randrange(10**6) if seed is None else seed
    for form in forms:
        print(f"{form}: SEED={seed} OBJECTS={objects}", flush=True)
        try:
            print(chaos(FORMS[form], objects, seed, lambda line: print(line, flush=True)), flush=True)
        except ChaosError as error:
            sys.exit(f"SEED={seed} OBJECTS={objects}, {form}: {error}")


if __name__ == "__main__":
    main()
