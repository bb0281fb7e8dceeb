"""What stands under deploy/ is valid, agrees with itself and with the code, and grants no more than it needs."""

from __future__ import annotations

import ast
import fnmatch
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.cli.main import main
from nsfwscan.config import BankConfig, ScanConfig, StorageConfig
from nsfwscan.execution.deadline import deadline_of
from nsfwscan.policy.rules import load_policy
from tests.runs.rows import begun

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"
DOCKERFILE = DEPLOY / "Dockerfile"
KINDS = {"RayJob": "rayjob", "RayCronJob": "raycronjob"}
FILES = {
    "RayJob": "kuberay/rayjob.yaml",
    "RayCronJob": "kuberay/raycronjob.yaml",
    "CronJob": "kubernetes/cronjob.yaml",
}
INPUTS = ("MEDIA", "MODELS", "BANKS", "INVENTORY")
"""The stores that a scan only reads, as the policy calls them."""


RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
OTHERS_WORDS = {"Missing authentication token", "ray job submit"}
"""What the runbook quotes and another program says."""


def documents(kind: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / FILES[kind]).read_text(encoding="utf-8")))


def document(kind: str, wanted: str | None = None) -> dict[str, Any]:
    """One object of a manifest: the one that it is about, or another kind."""
    (found,) = (entry for entry in documents(kind) if entry["kind"] == (wanted or kind))
    return found


def json_schema(schema: Any) -> Any:
    """An OpenAPI v3 structural schema as JSON Schema, and strict: what the API server would prune is an error."""
    if isinstance(schema, list):
        return [json_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: json_schema(value) for key, value in schema.items() if key not in ("properties", "default", "enum")}
    made |= {key: schema[key] for key in ("enum",) if key in schema}
    if "properties" in schema:
        made["properties"] = {name: json_schema(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json_schema(json.loads((SCHEMAS / f"{KINDS[kind]}-v1.json").read_text(encoding="utf-8")))
    return jsonschema.Draft202012Validator(schema)


def errors(kind: str, manifest: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(kind).iter_errors(manifest)]


def job_spec(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = document(kind)["spec"]
    return spec if kind == "RayJob" else spec["jobTemplate"]


def pod_specs(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pods of a job by role: submitter, head, and each worker group by its name."""
    cluster = spec["rayClusterSpec"]
    return {
        "submitter": spec["submitterPodTemplate"]["spec"],
        "head": cluster["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]},
    }


def all_pods() -> dict[str, dict[str, Any]]:
    """Return every pod of every way to deploy, by a name for messages."""
    nightly: dict[str, Any] = document("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    of_ray = {f"{kind} {role}": pod for kind in KINDS for role, pod in pod_specs(job_spec(kind)).items()}
    return {**of_ray, "CronJob scan": nightly}


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: the word in capitals and the rest, comments out and lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in pairs]


def values(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def copied() -> list[str]:
    """Return what the Dockerfile copies from the repository, as paths without a trailing slash."""
    paths: list[str] = []
    for rest in values("COPY") + values("ADD"):
        *sources, _target = [word for word in shlex.split(rest) if not word.startswith("--")]
        paths += [source.rstrip("/") for source in sources]
    return paths


def pinned(package: str) -> str:
    """Return the version that constraints.txt pins a package to."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"^{package}(?:\[[^\]]*\])?==([^\s;#]+)", text, re.MULTILINE | re.IGNORECASE)
    assert len(found) == 1, f"constraints.txt pins {package} {len(found)} times"
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_is_valid(kind: str) -> None:
    """Each KubeRay manifest obeys KubeRay's schema, unknown fields refused."""
    manifest = document(kind)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert errors(kind, manifest) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backoffLimit"), "2"),
        (("spec", "backofLimit"), 2),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "4"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "submitterPodTemplate", "spec", "containers", 0, "resources", "limits", "cpu"), 0.5),
        (("spec", "submitterPodTemplate", "spec", "containers", 0, "resources", "limits", "memory"), "1 GB"),
    ],
)
def test_manifest_mistakes_are_found(path: tuple[str | int, ...], value: object) -> None:
    """The schema check notices a wrong type, a misspelt field, a value outside the choices and a malformed quantity."""
    manifest = json.loads(json.dumps(document("RayJob")))
    inner: Any = manifest
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert len(errors("RayJob", manifest)) == 1


@pytest.mark.parametrize("quantity", [2, "500m", "1.5Gi"])
def test_quantities_are_numbers_or_strings(quantity: int | str) -> None:
    """An int-or-string field takes both, as the API server does."""
    manifest = document("RayJob")
    manifest["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": quantity}}
    assert errors("RayJob", manifest) == []


def scan_options(kind: str) -> dict[str, Any]:
    """Return the entrypoint of a job, as `nsfwscan scan` understands it."""
    if kind == "CronJob":
        (container,) = all_pods()["CronJob scan"]["containers"]
        words = container["command"] + container["args"]
    else:
        words = shlex.split(job_spec(kind)["entrypoint"])
    python, script, *arguments = words
    assert (python, script) == ("python", "jobs/scan.py")
    assert (ROOT / script).is_file()
    with click.Context(main.commands["scan"]) as context:
        main.commands["scan"].parse_args(context, arguments)
        return context.params


@pytest.mark.parametrize("kind", FILES)
def test_entrypoint_scans_from_s3_to_s3(kind: str) -> None:
    """The job runs jobs/scan.py, with options that there are."""
    options = scan_options(kind)
    assert [source[:5] for source in options["sources"]] == ["s3://"]
    assert options["out"].startswith("s3://")


def test_job_has_an_idempotent_run_id() -> None:
    """The run id of a single job is the RayJob's name, the same for every retry."""
    spec = job_spec("RayJob")
    assert scan_options("RayJob")["run_id"] == "${RUN_ID:?}"
    (container,) = spec["submitterPodTemplate"]["spec"]["containers"]
    (variable,) = (entry for entry in container["env"] if entry["name"] == "RUN_ID")
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    assert "jobId" not in spec, "a fixed job id forbids KubeRay's retries"
    assert (spec["submissionMode"], spec["backoffLimit"] > 0) == ("K8sJobMode", True)


def test_cluster_goes_when_the_job_is_done() -> None:
    """A finished job leaves no cluster running, and one that hangs ends."""
    spec = job_spec("RayJob")
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 <= spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["activeDeadlineSeconds"] * (spec["backoffLimit"] + 1) <= 24 * 3600


def test_nightly_job_resumes_and_stops_in_time() -> None:
    """A night goes on with what is unfinished, and ends in good order before its cluster is taken away."""
    options, spec = scan_options("RayCronJob"), job_spec("RayCronJob")
    assert (options["resume"], options["run_id"]) == ("last", None)
    left_s = deadline_of(options["deadline"]).left_s()
    assert left_s is not None and 1800 < spec["activeDeadlineSeconds"] - left_s < 7200


def test_nightly_job_is_the_single_job_on_a_schedule() -> None:
    """The RayCronJob runs the RayJob's spec but for the run id, every night at two, with the same service account."""
    cron = document("RayCronJob")["spec"]
    assert (cron["schedule"], cron["timeZone"]) == ("0 2 * * *", "Etc/UTC")
    single = job_spec("RayJob")
    (submitter,) = single["submitterPodTemplate"]["spec"]["containers"]
    del submitter["env"]
    assert cron["jobTemplate"] == single | {"entrypoint": cron["jobTemplate"]["entrypoint"]}
    stores = [{name: scan_options(kind)[name] for name in ("sources", "out")} for kind in KINDS]
    assert stores[0] == stores[1]
    for other in ("ServiceAccount", "ConfigMap"):
        assert document("RayJob", other) == document("RayCronJob", other)


def test_head_takes_no_work_and_workers_are_there_from_the_start() -> None:
    """The head offers no CPU; a CPU and a GPU group have their full size before the scan looks what there is."""
    cluster = job_spec("RayJob")["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "enableInTreeAutoscaling" not in cluster
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group in groups.values():
        assert 0 < group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    gpus = {
        name: group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for name, group in groups.items()
    }
    assert gpus == {"cpu": None, "gpu": "1"}


def test_pods_have_fixed_sizes_and_shared_memory() -> None:
    """Requests equal limits in every container, and Ray's nodes have their object store in memory."""
    for role, pod in all_pods().items():
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"], role
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), role
        if not role.endswith("submitter"):
            (mount,) = (entry for entry in container["volumeMounts"] if entry["mountPath"] == "/dev/shm")
            (volume,) = (entry for entry in pod["volumes"] if entry["name"] == mount["name"])
            assert volume["emptyDir"]["medium"] == "Memory", role


def test_pods_run_unprivileged_with_keys_from_their_service_account() -> None:
    """No pod runs as root or holds a key; each gets its role by the service account that the file defines."""
    for kind in FILES:
        assert document(kind, "ServiceAccount")["metadata"] == document("RayJob", "ServiceAccount")["metadata"]
    account = document("RayJob", "ServiceAccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for role, pod in all_pods().items():
        assert pod["serviceAccountName"] == account["metadata"]["name"], role
        assert pod["securityContext"]["runAsNonRoot"] is True, role
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, role
        given = {entry["name"]: entry for entry in container.get("env", [])}
        assert given.keys() <= {"RUN_ID", "NSFWSCAN_CACHE", "HF_HOME", "HF_TOKEN"}, role
        if "HF_TOKEN" in given:
            assert given["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True, role
    assert job_spec("RayJob")["rayClusterSpec"]["authOptions"]["mode"] == "token"


def test_the_root_is_read_only_and_all_that_is_written_is_a_volume() -> None:
    """Temporary files, checkpoints and banks have volumes of their own in every pod that runs a scan."""
    for role, pod in all_pods().items():
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, role
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert len(mounts) == len(volumes) and "emptyDir" in mounts["/tmp"], role
        if not role.endswith("submitter"):
            given = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert "emptyDir" in mounts[given["NSFWSCAN_CACHE"]], role
            assert Path(given["HF_HOME"]).is_relative_to(given["NSFWSCAN_CACHE"]), role


def test_pods_can_be_placed_and_pulled() -> None:
    """Every pod has a node selector and a pull secret to fill in, with values that harm nobody."""
    for role, pod in all_pods().items():
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}, role
        assert pod["imagePullSecrets"] == [{"name": "registry"}], role


@pytest.mark.parametrize("kind", FILES)
def test_policy_and_banks_come_from_the_config_map(kind: str, tmp_path: Path) -> None:
    """The scan's options name files of the ConfigMap that its pods mount; the policy binds, the bank is read."""
    options, rules = scan_options(kind), document(kind, "ConfigMap")
    assert rules["data"] == document("RayJob", "ConfigMap")["data"]
    [bank] = options["banks"]
    name, _, spec = bank.partition("=")
    for path in (options["policy"], spec.split(",")[0]):
        assert Path(path).parent == Path("/etc/nsfwscan")
        (tmp_path / Path(path).name).write_text(rules["data"][Path(path).name], encoding="utf-8")
    load_policy(str(tmp_path / "policy.yaml"))
    config = BankConfig(name=name, uri=str(tmp_path / Path(spec.split(",")[0]).name))
    [entry] = resolve_banks((config,), StorageConfig())
    assert (entry.entries["sha256"], entry.malformed) == (1, 0)
    for role, pod in all_pods().items():
        if role.startswith(kind) and not role.endswith("submitter"):
            (volume,) = (volume for volume in pod["volumes"] if "configMap" in volume)
            assert volume["configMap"]["name"] == rules["metadata"]["name"], role
            assert {"name": volume["name"], "mountPath": "/etc/nsfwscan", "readOnly": True} in pod["containers"][0][
                "volumeMounts"
            ], role


def test_plain_cron_job() -> None:
    """One pod a night, as the schema of pods has it; it resumes, stops in time, and is tried again only where that helps."""
    cron = document("CronJob")
    assert (cron["apiVersion"], cron["spec"]["schedule"]) == ("batch/v1", document("RayCronJob")["spec"]["schedule"])
    job = cron["spec"]["jobTemplate"]["spec"]
    carrier = json.loads(json.dumps(document("RayJob")))
    carrier["spec"]["submitterPodTemplate"] = job["template"]
    assert errors("RayJob", carrier) == []
    options = scan_options("CronJob")
    nightly = scan_options("RayCronJob")
    assert {name: options[name] for name in ("sources", "out", "resume", "deadline")} == {
        name: nightly[name] for name in ("sources", "out", "resume", "deadline")
    }
    assert job["activeDeadlineSeconds"] == job_spec("RayCronJob")["activeDeadlineSeconds"]
    [final] = (rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert final["onExitCodes"]["values"] == [2, 3, 4, 5, 6]
    assert final["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_pods_start_where_the_image_has_the_code() -> None:
    """Every Ray node's working directory is the image's, and no runtime_env brings other code."""
    assert "runtimeEnvYAML" not in job_spec("RayJob")
    (workdir,) = values("WORKDIR")
    for role, pod in pod_specs(job_spec("RayJob")).items():
        if role != "submitter":
            assert pod["containers"][0]["workingDir"] == workdir, role


def test_ray_version_is_the_locked_one() -> None:
    """The base image, the cluster and the image tags all name the Ray version that constraints.txt pins."""
    ray = pinned("ray")
    assert f"RAY_VERSION={ray}" in values("ARG")
    (base,) = values("FROM")
    assert base == "rayproject/ray:${RAY_VERSION}-${PYTHON}-${PLATFORM}"
    for kind in KINDS:
        spec = job_spec(kind)
        assert spec["rayClusterSpec"]["rayVersion"] == ray
        for role, pod in pod_specs(spec).items():
            tag = pod["containers"][0]["image"].rpartition(":")[2]
            assert tag.endswith(f"-ray{ray}-{'gpu' if role == 'gpu' else 'cpu'}"), role


def test_image_copies_only_what_is_in_the_repository() -> None:
    """Everything the Dockerfile copies exists, and is code or a project file."""
    project_files = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert set(copied()) <= project_files | {"nsfwscan", "jobs", "training"}
    assert [path for path in copied() if not (ROOT / path).exists()] == []


def test_docker_context_is_what_the_image_copies() -> None:
    """.dockerignore shuts everything out and lets in just what the Dockerfile copies."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line.strip() and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")} == set(copied())
    late = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert any(fnmatch.fnmatch("nsfwscan/__pycache__", rule) for rule in late)


def test_image_installs_the_locked_versions_and_keeps_no_cache() -> None:
    """Every pip install is constrained and leaves no cache, and the package itself is among them."""
    commands = [part.strip() for rest in values("RUN") for part in rest.split("&&")]
    installs = [shlex.split(command) for command in commands if "pip install" in command]
    assert installs
    for install in installs:
        assert "--no-cache-dir" in install
        assert install[install.index("-c") + 1] == "constraints.txt"
    assert any(install[-1] == ".${EXTRAS:+[${EXTRAS}]}" for install in installs)
    assert not any("apt" in command for command in commands)


def test_image_stays_unprivileged_and_starts_nothing() -> None:
    """The image ends as a numeric non-root user, has no entrypoint of its own and bakes no key in."""
    assert values("USER") == ["1000:100"]
    assert values("ENTRYPOINT") == values("CMD") == []
    settings = " ".join(values("ENV") + values("ARG")).upper()
    assert not re.search(r"AWS_|SECRET|TOKEN|PASSWORD|ACCESS_KEY", settings)


def statements() -> list[dict[str, Any]]:
    policy = json.loads((DEPLOY / "iam-policy.json").read_text(encoding="utf-8"))
    assert policy["Version"] == "2012-10-17"
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def grants() -> Iterator[tuple[str, str]]:
    """Yield each allowed (action, resource)."""
    for statement in statements():
        for action in as_list(statement["Action"]):
            for resource in as_list(statement["Resource"]):
                yield action, resource


def test_policy_grants_no_wildcards() -> None:
    """No action has a wildcard, and no resource names any bucket or a whole one."""
    assert {statement["Effect"] for statement in statements()} == {"Allow"}
    assert not any({"NotAction", "NotResource"} & set(statement) for statement in statements())
    for action, resource in grants():
        assert re.fullmatch(r"(s3|kms):[A-Za-z]+", action)
        if action.startswith("kms:"):
            assert re.fullmatch(r"arn:aws:kms:[A-Z]+:[A-Z]+:key/[A-Z-]+", resource)
            continue
        bucket, _slash, key = resource.removeprefix("arn:aws:s3:::").partition("/")
        assert re.fullmatch(r"[A-Z-]+", bucket), "a placeholder in capitals"
        assert bool(key) is (action != "s3:ListBucket")
        assert not key or re.fullmatch(r"[A-Z-]+/([a-z]+/)?\*", key)


def test_policy_reads_media_writes_reports_and_deletes_staging_only() -> None:
    """Media are read and never written; anchors are added; reports are written, and only their staging is deleted."""
    allowed: dict[str, set[str]] = {}
    for action, resource in (grant for grant in grants() if grant[0].startswith("s3:")):
        allowed.setdefault(resource.removeprefix("arn:aws:s3:::"), set()).add(action.removeprefix("s3:"))
    assert allowed == {
        **{f"{store}-BUCKET": {"ListBucket"} for store in INPUTS},
        **{f"{store}-BUCKET/{store}-PREFIX/*": {"GetObject"} for store in INPUTS},
        "ANCHORS-BUCKET": {"ListBucket"},
        "ANCHORS-BUCKET/ANCHORS-PREFIX/*": {"GetObject", "PutObject"},
        "REPORTS-BUCKET": {"ListBucket"},
        "REPORTS-BUCKET/REPORTS-PREFIX/*": {"GetObject", "PutObject", "AbortMultipartUpload"},
        "REPORTS-BUCKET/REPORTS-PREFIX/staging/*": {"DeleteObject"},
    }


def test_policy_uses_one_key_through_s3_alone() -> None:
    """Encrypting reports takes a data key for writing and, for parts and for reading back, decrypting; nothing else."""
    (encrypt,) = (s for s in statements() if any(a.startswith("kms:") for a in as_list(s["Action"])))
    assert set(encrypt["Action"]) == {"kms:GenerateDataKey", "kms:Decrypt"}
    assert encrypt["Condition"] == {"StringEquals": {"kms:ViaService": "s3.REGION.amazonaws.com"}}


def test_policy_limits_listing_to_the_prefixes() -> None:
    """Listing is bound to the prefix; by IfExists, since a read of an absent key has no prefix and would be a 403."""
    conditions = {
        as_list(statement["Resource"])[0].removeprefix("arn:aws:s3:::"): statement["Condition"]
        for statement in statements()
        if statement["Action"] == "s3:ListBucket"
    }
    assert conditions == {
        f"{store}-BUCKET": {"StringLikeIfExists": {"s3:prefix": [f"{store}-PREFIX", f"{store}-PREFIX/*"]}}
        for store in (*INPUTS, "REPORTS", "ANCHORS")
    }


def test_placeholders_of_manifests_and_policy_agree() -> None:
    """The scan's source and store are the buckets and prefixes that the policy grants."""
    _python, _script, source, _out, store, *_rest = shlex.split(job_spec("RayJob")["entrypoint"])
    granted = {resource.removeprefix("arn:aws:s3:::") for _action, resource in grants()}
    assert {f"{address.removeprefix('s3://').rstrip('/')}/*" for address in (source, store)} <= granted


def test_submission_carries_code_and_no_media(tmp_path: Path) -> None:
    """Ray's own packaging takes jobs/, nsfwscan/ and training/ of a working tree, and leaves media and reports."""
    from ray._private.runtime_env.packaging import create_package

    stays = (
        "media/a.jpg demo/b.png reports/runs/r/run.json x.parquet .git/HEAD .venv/bin/python tests/test_x.py dist/n.whl"
    )
    travels = "jobs/scan.py nsfwscan/models/spec.py nsfwscan/policy/presets/p.yaml training/fit/fit.py pyproject.toml"
    tree, package = tmp_path / "tree", tmp_path / "package.zip"
    for name in f"{stays} {travels} nsfwscan/__pycache__/cli.pyc .env".split():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    shutil.copy(ROOT / ".rayignore", tree)
    create_package(str(tree), package, include_gitignore=True, logger=logging.getLogger(__name__))
    with zipfile.ZipFile(package) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    assert files - {".rayignore"} == set(travels.split())


def messages() -> list[str]:
    """Return every text in the source, with `…` for what it fills in."""
    found: list[str] = []
    for path in (ROOT / "nsfwscan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted() -> list[str]:
    """Return what the runbook says that nsfwscan says: the code in the first cells of its tables of symptoms and findings."""
    chapters = re.findall(r"^## (?:By symptom|What `verify` finds)\n(.*?)(?=^## )", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert len(chapters) == 2
    cells = re.findall(r"^\| (?!it says|`error` says|---)(.*?) \|", "".join(chapters), re.MULTILINE)
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell) if code not in OTHERS_WORDS]


def test_runbook_quotes_what_is_said() -> None:
    """Each message that the runbook explains is one that the source has, word for word."""
    said, asked = messages(), quoted()
    assert len(asked) > 50
    assert [quote for quote in asked if not any(quote in message for message in said)] == []


def test_runbook_names_options_and_settings_that_exist() -> None:
    """Every option that the runbook names is one of nsfwscan's or of the other tools', every setting one of the
    configuration."""
    code = " ".join(re.findall(r"`([^`]+)`", RUNBOOK))
    ours = {option for command in main.commands.values() for p in command.params for option in p.opts}
    assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code)) <= ours | {"--generate"}
    config = ScanConfig.load(None, {"source": {"uris": []}, "out": ""})
    settings = re.findall(r"\b(read|decode|engine|previous|storage)\.([a-z_]+)", code)
    assert settings
    assert [f"{section}.{key}" for section, key in settings if not hasattr(getattr(config, section), key)] == []


def test_runbook_finds_the_objects_of_a_shard(tmp_path: Path) -> None:
    """The runbook's commands print the objects of a row group, write them as a manifest, and a valid configuration."""
    run, plan = begun(tmp_path / "out", [f"/media/{i:02}.jpg" for i in range(40)], shard_rows=8)
    shard = plan.shards[1]
    (script,) = re.findall(r"^\$ (python -c .*?)\n```", RUNBOOK, re.MULTILINE | re.DOTALL)
    python, option, code, _listing, _group = shlex.split(script)
    assert (python, option) == ("python", "-c")
    found = subprocess.run(
        [sys.executable, "-c", code, run.folder.locate(shard.listing), str(shard.group)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [f"/media/{i:02}.jpg" for i in range(8, 16)]
    assert pq.read_table(tmp_path / "shard.parquet")["uri"].to_pylist() == found.stdout.split()
    (written,) = re.findall(r"^\$ echo '(.*)' > alone.yaml$", RUNBOOK, re.MULTILINE)
    config = ScanConfig.load(None, {"source": {"uris": []}, "out": "", **yaml.safe_load(written)})
    assert (config.engine.inline_rows, config.engine.shard_rows, config.engine.max_attempts) == (0, 1, 2)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", (DEPLOY / "SECURITY.md").read_text(encoding="utf-8"))))
)
def test_each_promise_has_its_test(name: str) -> None:
    """The tests that the page on security names are there."""
    file, _, test = name.partition("::")
    assert f"\ndef {test}(" in (DEPLOY.parent / file).read_text(encoding="utf-8")
