"""`freshet topics create`: the topics of the live path, made or compared."""

from pathlib import Path

import click

from infra.exits import ExitCode
from infra.live import live_extra
from infra.options import json_option, read_settings, settings_options
from infra.output import console, print_json, table

with live_extra():
    from stream.kafka.admin import create_topics, topic_shapes


@click.group("topics", help="Make the topics of the live path.")
def command() -> None:
    """Group of the topic commands."""


@command.command("create")
@click.option("--partitions", type=click.IntRange(min=1), default=8, show_default=True,
              help="Of the interactions and the slates; items and dead letters get one.")  # fmt: skip
@click.option("--replication", type=click.IntRange(min=1), default=1, show_default=True,
              help="Copies of every partition.")  # fmt: skip
@click.option("--topic-config", "pairs", multiple=True, metavar="KEY=VALUE",
              help="Broker setting of all topics, e.g. retention.ms=604800000 (repeatable).")  # fmt: skip
@settings_options
@json_option
def create(
    partitions: int,
    replication: int,
    pairs: tuple[str, ...],
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> int:
    """Make the topics that [kafka] names; existing ones are compared and left as they are.

    Choose the partitions for good: another number later sends users to other partitions, and freshet
    refuses to go on. Exit code 1 says that an existing topic differs.
    """
    loaded = read_settings(config_file, assignments)
    config = loaded.settings.kafka
    extra = _pairs(pairs)
    outcomes = create_topics(
        config, topic_shapes(config, partitions=partitions, extra=extra), replication=replication
    )
    if as_json:
        print_json(outcomes)
    else:
        rows = [
            (
                found.name,
                found.partitions,
                "created" if found.created else "exists",
                "; ".join(found.differs) or "-",
            )
            for found in outcomes
        ]
        console().print(
            table(config.bootstrap_servers, ["topic", "partitions", "state", "differs"], rows)
        )
    return ExitCode.FOUND if any(found.differs for found in outcomes) else ExitCode.OK


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    split = [text.partition("=") for text in texts]
    for text, (key, separator, _) in zip(texts, split, strict=True):
        if not separator or not key.strip():
            raise click.BadParameter(
                f"{text!r} is not of the form KEY=VALUE", param_hint="--topic-config"
            )
    return {key.strip(): value.strip() for key, _, value in split}
