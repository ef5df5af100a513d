"""Settings: precedence, origins, and refusals that name the place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import SettingsError
from infra.settings import Loaded, Override, Settings, load, parse_value


def loaded(*overrides: Override, file: Path | None = None, **environ: str) -> Loaded:
    return load(config_file=file, environ=environ, overrides=overrides)


def toml(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_every_value_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = loaded()
    assert found.settings == Settings()
    assert {origin for _, _, origin in found.rows()} == {"default"}


def test_flags_win_over_environment_over_file(tmp_path):
    file = toml(tmp_path, "[serving]\ntop_k = 1\nr_max = 100\nmax_users = 5\n")
    found = loaded(
        Override("serving.top_k", 3, "--set"),
        file=file,
        FRESHET_SERVING__TOP_K="2",
        FRESHET_SERVING__R_MAX="200",
    )
    serving = found.settings.serving
    assert (serving.top_k, serving.r_max, serving.max_users) == (3, 200, 5)
    origins = {key: origin for key, _, origin in found.rows()}
    assert origins["serving.top_k"] == "--set"
    assert origins["serving.r_max"] == "FRESHET_SERVING__R_MAX"
    assert origins["serving.max_users"] == str(file)
    assert origins["serving.max_bytes"] == "default"


def test_a_file_in_the_working_folder_is_read_unless_another_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freshet.toml").write_text("[serving]\ntop_k = 7\n")
    other = toml(tmp_path, "[serving]\ntop_k = 8\n")
    assert loaded().settings.serving.top_k == 7
    assert loaded(file=other).settings.serving.top_k == 8
    assert loaded(FRESHET_CONFIG=str(other)).settings.serving.top_k == 8


def test_event_types_can_come_from_every_layer(tmp_path):
    file = toml(tmp_path, "[stream.event_types.Purchase]\nweight = 3\n")
    found = loaded(file=file, FRESHET_STREAM__EVENT_TYPES__CLICK__ROLE="history")
    types = found.settings.stream.event_types
    assert types["Purchase"].weight == 3
    assert types["click"].role == "history"
    assert found.is_set("stream.event_types")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("serving.topk", "serving.top_k"),
        ("servin.top_k", "serving"),
        ("model.readout.counter", "model.readout.counters"),
        ("stream.event_types.click.wieght", "stream.event_types.click.weight"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_one(key, hint):
    with pytest.raises(SettingsError) as caught:
        loaded(Override(key, 1, "--set"))
    assert f"did you mean {hint!r}" in str(caught.value)
    assert str(caught.value).startswith("--set: unknown key")


def test_an_unknown_key_of_a_file_names_the_file(tmp_path):
    file = toml(tmp_path, "[serving]\nnothing_like_it = 1\n")
    with pytest.raises(SettingsError, match=r"some.toml.*serving.nothing_like_it"):
        loaded(file=file)


def test_an_unknown_variable_is_refused():
    with pytest.raises(SettingsError, match="FRESHET_SERVING_TOP_K"):
        loaded(FRESHET_SERVING_TOP_K="1")


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("serving.top_k", "ten", "Expected `int`"),
        ("serving.filter_seen", 1, "Expected `bool`"),
        ("stream.lateness_ms", -1, "lateness_ms must be >= 0"),
        ("model.backbone", "gru", "Invalid enum value"),
        ("model.n_heads", 7, "n_heads"),
        ("serving", 3, "is a table"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(key, value, part):
    with pytest.raises(SettingsError) as caught:
        loaded(Override(key, value, "--set"))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_with_its_place(tmp_path):
    with pytest.raises(SettingsError, match=r"some.toml: not valid TOML.*line 2"):
        loaded(file=toml(tmp_path, "[serving]\ntop_k = = 3\n"))
    with pytest.raises(SettingsError, match="no such configuration file"):
        loaded(file=tmp_path / "absent.toml")


def test_none_takes_a_value_away():
    assert loaded(Override("model.window", "none", "--set")).settings.model.window is None


@given(st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.floats(allow_nan=False)))
def test_numbers_and_booleans_typed_as_text_keep_their_type(value):
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["1GB", "a b", "", "2011-", "[unclosed"])
def test_what_is_not_toml_stays_text(text):
    assert parse_value(text) == text


def test_a_password_is_text_whatever_it_looks_like_and_is_shown_nowhere():
    found = loaded(FRESHET_KAFKA__SASL_PASSWORD="12345")
    assert found.settings.kafka.sasl_password == "12345"
    rows = {key: (value, origin) for key, value, origin in found.rows()}
    assert rows["kafka.sasl_password"] == ("***", "FRESHET_KAFKA__SASL_PASSWORD")
    assert rows["kafka.ssl_key_password"] == ("", "default")
    assert "12345" not in repr(found.settings)


def test_variables_of_the_test_broker_are_no_settings():
    found = loaded(FRESHET_REQUIRE="kafka", FRESHET_BOOTSTRAP="a:1", FRESHET_KAFKA_LIBS="jars")
    assert not found.origins
