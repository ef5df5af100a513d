"""Replay, diff and train: stopped and resumed, repeated, refused."""

import gzip
import json

import pytest

from infra.exits import ExitCode
from tests.infra.conftest import tiny_model


def replay(freshet, world, db, slates, *more):
    return freshet(
        "replay", world.log, "--db", db, "--model", world.model, "--items", world.items,
        "--slates", slates, "--config", world.config, "--json", *more,
    )  # fmt: skip


def digest(freshet, db):
    query = "select checksum, segment from token_groups order by user_idx, segment"
    return freshet("sql", query, "--db", db, "--limit", 0, "--csv").out


def test_two_replays_give_the_same_slates_and_tokens(freshet, made, tmp_path):
    done = replay(freshet, made, tmp_path / "y.duckdb", tmp_path / "y.jsonl")
    assert done.code == 0
    assert done.json["records"] == len(made.log.read_text().splitlines())
    compared = freshet("diff", made.slates, tmp_path / "y.jsonl", "--json")
    assert compared.code == 0
    assert compared.json["compared"] == done.json["slates"]
    assert compared.json["largest_score_difference"] == 0
    assert digest(freshet, tmp_path / "y.duckdb") == digest(freshet, made.db)


def test_a_stopped_replay_goes_on_where_it_stopped(freshet, made, tmp_path):
    db, slates = tmp_path / "y.duckdb", tmp_path / "y.jsonl"
    for limit in (97, 251):
        assert replay(freshet, made, db, slates, "--max-records", limit).json["records"] == limit
    assert replay(freshet, made, db, slates).code == 0
    assert freshet("diff", made.slates, slates).code == 0
    assert digest(freshet, db) == digest(freshet, made.db)


def test_a_worker_process_gives_the_same_slates_and_tokens(freshet, made, tmp_path):
    db, slates = tmp_path / "y.duckdb", tmp_path / "y.jsonl"
    assert replay(freshet, made, db, slates, "--worker").code == 0
    assert freshet("diff", made.slates, slates).code == 0
    assert digest(freshet, db) == digest(freshet, made.db)


def test_a_replay_by_the_journal_of_another_ticks_where_that_one_did(freshet, made, tmp_path):
    """Its own settings would tick far more often; stopped and resumed it goes on."""
    db, slates = tmp_path / "y.duckdb", tmp_path / "y.jsonl"
    more = ("--journal", made.db, "--set", "refresh.tick_interval_s=3600")
    assert replay(freshet, made, db, slates, *more, "--max-records", 200).code == 0
    assert replay(freshet, made, db, slates, *more).code == 0
    compared = freshet("diff", made.slates, slates, "--json")
    assert compared.code == 0
    assert compared.json["compared"] == len(made.slates.read_text().splitlines())
    assert digest(freshet, db) == digest(freshet, made.db)
    assert replay(freshet, made, db, slates, *more, "--no-score").code == ExitCode.USAGE
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    refused = replay(freshet, made, tmp_path / "z.duckdb", slates, "--journal", broken)
    assert refused.code == ExitCode.INPUT
    assert "broken.jsonl" in refused.err


def test_a_replay_without_slates_stores_the_same_events_and_tokens(freshet, made, tmp_path):
    db = tmp_path / "y.duckdb"
    command = ("replay", made.log, "--db", db, "--model", made.model, "--items", made.items)
    done = freshet(*command, "--config", made.config, "--json", "--no-score")
    assert (done.code, done.json["slates"]) == (0, 0)
    assert digest(freshet, db) == digest(freshet, made.db)
    refused = freshet(*command, "--no-score", "--slates", tmp_path / "y.jsonl")
    assert refused.code == ExitCode.USAGE


def test_a_second_replay_of_a_finished_log_does_nothing(freshet, world):
    again = replay(freshet, world, world.db, world.slates).json
    assert (again["records"], again["slates"]) == (0, 0)


def test_from_stores_without_scoring_and_until_stops(freshet, made, tmp_path):
    slates = tmp_path / "y.jsonl"
    bounds = ("--from", "2024-01-08", "--until", "2024-01-12")
    done = replay(freshet, made, tmp_path / "y.duckdb", slates, *bounds)
    times = [json.loads(line)["at_ms"] for line in slates.read_text().splitlines()]
    assert len(times) == done.json["slates"] > 0
    assert max(times) < 1_705_017_600_000
    assert done.json["records"] < len(made.log.read_text().splitlines())
    assert replay(freshet, made, tmp_path / "y.duckdb", slates, *bounds).json["records"] == 0
    rest = replay(freshet, made, tmp_path / "y.duckdb", slates)
    assert rest.json["records"] + done.json["records"] == len(made.log.read_text().splitlines())


def test_without_a_model_slates_are_popular_items(freshet, made, tmp_path):
    slates = tmp_path / "y.jsonl"
    done = freshet(
        "replay", made.log, "--db", tmp_path / "y.duckdb", "--slates", slates, "--quiet",
        "--config", made.config,
    )  # fmt: skip
    assert done.code == 0
    rows = [json.loads(line) for line in slates.read_text().splitlines()]
    assert {row["reason"] for row in rows} == {"popular"}
    assert "slates" in done.out


def test_columns_are_mapped_by_flag(freshet, tmp_path):
    log = tmp_path / "log.csv.gz"
    with gzip.open(log, "wt") as file:
        file.write("Customer,Sku,What,When\na,x,buy,2024-01-01T00:00:00\nb,y,buy,2024-01-02\n")
    columns = "user_id=Customer,item_id=Sku,event_type=What,ts=When"
    done = freshet("replay", log, "--db", tmp_path / "y.duckdb", "--map", columns, "--json")
    assert (done.json["records"], done.json["interactions"]) == (2, 2)


def test_diff_finds_a_changed_slate_and_says_which(freshet, made, tmp_path):
    lines = made.slates.read_text().splitlines()
    changed = json.loads(lines[5])
    changed["items"][0]["score"] += 1.0
    lines[5] = json.dumps(changed)
    (tmp_path / "other.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    outcome = freshet("diff", made.slates, tmp_path / "other.jsonl")
    assert outcome.code == ExitCode.FOUND
    assert "the slates differ" in outcome.out
    shown = freshet("diff", made.slates, tmp_path / "other.jsonl", "--json").json
    assert shown["differences"] == {"score": 1, "only_left": 1}
    assert changed["id"] in {row["id"] for row in shown["examples"]}


def test_a_file_that_holds_no_slates_is_refused_with_its_line(freshet, made, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(made.slates.read_text().splitlines()[0] + "\n{\n")
    outcome = freshet("diff", made.slates, broken)
    assert outcome.code == ExitCode.INPUT
    assert "broken.jsonl:2: not a slate" in outcome.err


def test_train_writes_a_checkpoint_that_replays(freshet, made, tmp_path):
    out = tmp_path / "trained.safetensors"
    small = (
        "train.steps=3", "train.finetune_steps=1", "train.eval_every=0", "train.min_history=8",
        "train.window_events=64", "train.batch_events=128", "model.d_model=16", "model.n_words=64",
        "model.readout.calibration=false",
    )  # fmt: skip
    flags = ["--train-end", "2024-01-16"]
    flags += [flag for assignment in small for flag in ("--set", assignment)]
    trained = freshet(
        "train", made.log, "--items", made.items, "--out", out, "--config", made.config,
        "--seed", 2, "--json", *flags,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert trained.json["seed"] == 2
    assert not out.with_name("trained.safetensors.state").exists()
    done = freshet(
        "replay", made.log, "--db", tmp_path / "y.duckdb", "--model", out, "--config", made.config,
        "--json", "--max-records", 100,
    )  # fmt: skip
    assert done.code == 0, done.err
    version = "select version from model_registry"
    assert trained.json["version"] in freshet("sql", version, "--db", tmp_path / "y.duckdb").out


def test_generate_prints_what_it_wrote(freshet, tmp_path):
    arguments = ("--users", 5, "--events", 200, "--items", 32, "--bad", 0.05, "--seed", 4)
    shown = freshet("generate", tmp_path / "a.jsonl", *arguments, "--json").json
    assert shown["interactions"] == 200
    assert shown["records"] == len((tmp_path / "a.jsonl").read_text().splitlines())
    freshet("generate", tmp_path / "b.jsonl", *arguments)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["log.txt", "log.csv.bz2"])
def test_generate_refuses_a_name_without_a_format(freshet, tmp_path, name):
    outcome = freshet("generate", tmp_path / name, "--users", 2, "--events", 10)
    assert outcome.code == ExitCode.USAGE


def test_another_checkpoint_than_the_tokens_is_refused(freshet, made, tmp_path):
    other = tmp_path / "other.safetensors"
    tiny_model(other, ["i1", "i2"], {})
    outcome = freshet("recommend", "u1", "--db", made.db, "--model", other)
    assert outcome.code == ExitCode.MODEL
    assert "holds tokens of" in outcome.err


def test_a_replaced_log_is_refused_and_a_grown_one_goes_on(freshet, world):
    lines = world.log.read_text().splitlines(keepends=True)
    world.log.write_text("".join(lines[::-1]))
    refused = replay(freshet, world, world.db, world.slates)
    assert refused.code == ExitCode.INPUT
    assert "log.jsonl" in refused.err
    newest = json.loads(lines[-1]) | {"event_id": "new", "ts": 1_706_000_000_000}
    world.log.write_text("".join(lines) + json.dumps(newest) + "\n")
    assert replay(freshet, world, world.db, world.slates).json["records"] == 1


def test_a_log_of_daily_files_goes_on_with_a_new_day_and_refuses_one_in_between(
    freshet, world, tmp_path
):
    lines = world.log.read_text().splitlines(keepends=True)
    folder = tmp_path / "days"
    folder.mkdir()
    for day, cut in (("1", lines[:10]), ("3", lines[10:20])):
        (folder / f"{day}.jsonl").write_text("".join(cut))
    line = ("replay", folder, "--db", tmp_path / "y.duckdb", "--json")
    assert freshet(*line).json["records"] == 20
    (folder / "4.jsonl").write_text("".join(lines[20:23]))
    assert freshet(*line).json["records"] == 3
    (folder / "2.jsonl").write_text(lines[23])
    refused = freshet(*line)
    assert refused.code == ExitCode.INPUT
    assert "2.jsonl: comes before 3.jsonl, which was read already" in refused.err
    (folder / "2.jsonl").unlink()
    with (folder / "1.jsonl").open("a") as file:
        file.write(lines[23])
    assert "1.jsonl: grew after a later file was read" in freshet(*line).err


def test_two_logs_with_the_same_users_are_refused(freshet, world, tmp_path):
    lines = world.log.read_text().splitlines(keepends=True)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines[:5]))
    line = ("--db", tmp_path / "y.duckdb", "--json")
    assert freshet("replay", tmp_path / "a.jsonl", *line).json["records"] == 5
    refused = freshet("replay", tmp_path / "b.jsonl", *line)
    assert refused.code == ExitCode.INPUT
    assert "b.jsonl[0]" in refused.err
    assert "key the topic by user" in refused.err


def test_log_and_items_of_one_name_are_told_apart_on_request(freshet, made, tmp_path):
    items = tmp_path / made.log.name
    items.write_text(made.items.read_text())
    line = ("replay", made.log, "--db", tmp_path / "y.duckdb", "--items", items, "--max-records", 5)
    refused = freshet(*line, "--json")
    assert refused.code == ExitCode.INPUT
    assert "items.topic" in refused.err
    assert freshet(*line, "--json", "--set", "items.topic=items").code == 0
