"""What never leaves, and that every slate says why, from the command line down to the file of slates."""

import json

import pytest

START = 1_704_067_200_000
MINUTE = 60_000


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def slates(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def shown(slate):
    return {item["item_id"] for item in slate["items"]}


@pytest.fixture
def replayed(freshet, made, tmp_path):
    """Replay the world with settings; return its slates in the order of their causes."""

    def call(*settings, items=None, log=None, more=()):
        flags = [flag for setting in settings for flag in ("--set", setting)]
        done = freshet(
            "replay", log or made.log, "--db", tmp_path / "y.duckdb", "--model", made.model,
            "--items", items or made.items, "--slates", tmp_path / "y.jsonl",
            "--config", made.config, "--json", *flags, *more,
        )  # fmt: skip
        assert done.code == 0, done.err
        return slates(tmp_path / "y.jsonl")

    return call


def test_denied_and_unavailable_items_never_leave(replayed, made, tmp_path):
    usual = slates(made.slates)
    favorites = sorted(set().union(*(shown(slate) for slate in usual)))
    denied, gone = favorites[0], favorites[1]
    rows = [json.loads(line) for line in made.items.read_text().splitlines()]
    rows = [row | {"available": row["item_id"] != gone} for row in rows]
    items = write(tmp_path / "some_gone.jsonl", rows)
    found = replayed(f'serving.deny=["{denied}"]', items=items)
    assert len(found) == len(usual)
    assert not any({denied, gone} & shown(slate) for slate in found)


def test_an_item_that_becomes_unavailable_leaves_at_once_and_may_return(replayed, made, tmp_path):
    lines = made.log.read_text().splitlines()
    item = max(shown(slates(made.slates)[-1]))
    leaves, returns = len(lines) // 2, len(lines) * 3 // 4
    for offset, available in ((leaves, False), (returns, True)):
        lines.insert(offset, json.dumps({"kind": "item", "item_id": item, "available": available}))
    log = tmp_path / "with_items.jsonl"
    log.write_text("\n".join(lines) + "\n")
    found = replayed(log=log)
    holding = [slate["cause"]["offset"] for slate in found if item in shown(slate)]
    assert not set(holding) & set(range(leaves, returns))
    assert holding


def test_seen_items_never_return_when_they_are_filtered(replayed, made):
    found = replayed("serving.filter_seen=true", "serving.max_users=1")
    seen: dict[str, set[str]] = {}
    at = {slate["cause"]["offset"]: slate for slate in found}
    for offset, line in enumerate(made.log.read_text().splitlines()):
        if offset not in at:
            continue
        row = json.loads(line)
        seen.setdefault(row["user_id"], set()).add(row["item_id"])
        assert not shown(at[offset]) & seen[row["user_id"]]
    assert len(at) > 100


def test_an_item_seen_3000_events_ago_stays_away_after_eviction_and_restart(replayed, tmp_path):
    count = 3_000
    rows = [{"user_id": "u", "item_id": "i40", "event_type": "view", "ts": START}]
    for n in range(1, count + 40):
        user = "u" if n % 8 or n < count else "other"
        row = {"item_id": f"i{n % 30}", "event_type": "view", "ts": START + n * MINUTE}
        rows.append({"user_id": user, **row})
    log = write(tmp_path / "long.jsonl", rows)
    items = write(tmp_path / "items.jsonl", [{"item_id": f"i{n}"} for n in range(48)])
    scored_from = str(START + count * MINUTE)
    settings = ("serving.filter_seen=true", "serving.max_users=1", "serving.top_k=48")
    more = ("--from", scored_from)
    replayed(*settings, log=log, items=items, more=(*more, "--max-records", count + 20))
    found = replayed(*settings, log=log, items=items, more=more)
    found = [slate for slate in found if slate["user_id"] == "u"]
    assert len(found) > 30
    assert all(slate["coverage"]["groups"] for slate in found)
    for slate in found:
        assert "i40" not in shown(slate)
        assert "i41" in shown(slate)


def test_every_slate_says_why(replayed, freshet, made, tmp_path):
    reasons = {slate["reason"] for slate in slates(made.slates)}
    assert {"personal", "recent_only"} <= reasons <= {"personal", "recent_only", "stale_tokens"}
    late = replayed("refresh.tick_interval_s=31536000", "refresh.visible_delay_s=31536000")
    assert "stale_tokens" in {slate["reason"] for slate in late}
    assert "personal" not in {slate["reason"] for slate in late}
    cold = freshet("recommend", "nobody", "--db", tmp_path / "y.duckdb", "--json")
    assert cold.json["reason"] == "cold_user"
