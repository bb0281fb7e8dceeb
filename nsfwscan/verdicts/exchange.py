"""Say verdicts in the words of others: of Coop's callbacks, of ThreatExchange's descriptors, and as labels to train on.

Each function returns JSON objects. Undone and superseded verdicts are in none of them: what is said is what stands, or
in Coop's words what each person decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nsfwscan.models.labels import category_of
from nsfwscan.schema import NSFW_CATEGORIES, Category, StandingVerdict, in_utc
from nsfwscan.text import plural
from nsfwscan.verdicts.verdict import Kind, VerdictWord

COOP_ITEM_TYPE = "image"
_STATUS = {
    StandingVerdict.REMOVE: "MALICIOUS",
    StandingVerdict.APPROVE: "NON_MALICIOUS",
    StandingVerdict.ESCALATE: "SUSPICIOUS",
    StandingVerdict.DISPUTED: "SUSPICIOUS",
}
"""https://developers.facebook.com/docs/threat-exchange/reference/apis/status-type, as of content safety."""


def as_coop(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verdict (`VERDICT_SCHEMA`) as the body of Coop's callback of an action, or of a decision on an appeal.

    https://github.com/roostorg/coop/blob/main/docs/api/actions.md. The item's id is the URI; `appealedBy` is null, and
    `penalty` is `NONE`, since a verdict knows neither; what else it knows is in `custom`.
    """
    item = {"id": row["uri"], "typeId": COOP_ITEM_TYPE}
    kept = ("id", "sha256", "run_id", "model", "policy", "kind", "verdict", "supersedes", "probability")
    custom = {**{name: row[name] for name in kept}, "decided_at": in_utc(row["decided_at"])}
    if row["kind"] == Kind.APPEAL and row["verdict"] in (VerdictWord.APPROVE, VerdictWord.REMOVE):
        decision = "ACCEPT" if row["verdict"] == VerdictWord.APPROVE else "REJECT"
        return {"appealId": row["id"], "item": item, "appealedBy": None, "appealDecision": decision, "custom": custom}
    policies = [{"id": row["category"], "name": row["category"], "penalty": "NONE"}] if row["category"] else []
    body = {"item": item, "action": {"id": row["verdict"]}, "policies": policies, "rules": [], "custom": custom}
    note = {"actorNote": row["reason"]} if row["reason"] else {}
    return {**body, "actorEmail": row["reviewer"], **note}


def as_descriptors(stands: Mapping[str, Any], hashes: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Yield what stands of a content (`STANDING_SCHEMA`) as ThreatExchange's descriptors, one for each hash.

    https://developers.facebook.com/docs/threat-exchange/reference/apis/threat-descriptor. Who uploads it says with whom
    it is shared: nothing here does.

    Args:
        hashes: `md5` and `pdq` of the content, as far as they are known.
    """
    verdict = StandingVerdict(stands["verdict"])
    known = {"HASH_SHA256": stands["sha256"], "HASH_MD5": hashes.get("md5"), "HASH_PDQ": hashes.get("pdq")}
    about = {
        "status": _STATUS[verdict],
        "review_status": "REVIEWED_MANUALLY",
        "description": stands["reason"] or f"{verdict}: {plural(stands['people'], 'reviewer')}",
        "tags": [stands["category"]] if stands["category"] else [],
        "first_active": in_utc(stands["verdict_at"]),
    }
    yield from ({"indicator": value, "type": kind, **about} for kind, value in known.items() if value)


def label_of(verdict: str | None, category: str | None) -> Category | None:
    """Return the category that a standing verdict makes the truth of a content.

    What was approved is `neutral`, or `drawings` where the reviewer said so; what was removed is the NSFW category that
    the reviewer named. None where that is no category of a model: something else was wrong with it.
    """
    named = category_of(category) if category else None
    if verdict == StandingVerdict.APPROVE:
        return named if named is Category.DRAWINGS else Category.NEUTRAL
    return named if verdict == StandingVerdict.REMOVE and named in NSFW_CATEGORIES else None
