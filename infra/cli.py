"""The command line `freshet`: finds commands, turns errors into one line and an exit code.

Commands load when they are named, so that `freshet --help` needs neither torch nor DuckDB.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import click

from infra.exits import ExitCode, epilog, error_text, exit_code

# name: (module under infra.commands, what the help page says); listed in the order of a first day.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Replay the shipped log with the shipped model and print what it is worth."),
    "generate": ("generate", "Write a synthetic log with drifting tastes and known faults."),
    "check": ("check", "Read a log of your own: what is in it, what is wrong, which settings fit."),
    "train": ("train", "Fit a model on a log and write its checkpoint."),
    "replay": ("replay", "Store a log, keep tokens fresh, write a slate per scored event."),
    "run": ("run", "Run beside Kafka: store what arrives, answer every event with a slate."),
    "evaluate": ("evaluate", "Measure a model against baselines on a log, with intervals."),
    "quality": ("quality", "Measure the recipe over seeds and splits on the shipped log (long)."),
    "synthetic": ("synthetic", "Show what tokens carry, on a made-up task of long interests."),
    "recommend": ("recommend", "Print the slate of one user at a given time."),
    "inspect": ("inspect", "Look at a user, an item or the tokens of a user."),
    "status": ("status", "Print positions, lag, tokens and failures of a database."),
    "sql": ("sql", "Run one SELECT on a database."),
    "dlq": ("dlq", "Look at bad records, and send them again."),
    "export-log": ("export_log", "Record the topics as files that a replay reads."),
    "doctor": ("doctor", "Check a database: ranges, positions, tokens, checksums, versions."),
    "backup": ("backup", "Copy a database while it is used, or not."),
    "restore": ("restore", "Check a backup and put it in the place of a database."),
    "diff": ("diff", "Compare the slates of two runs."),
    "bench": ("bench", "Measure speed and memory against baselines, and write the figures."),
    "torture": (
        "torture",
        "Kill a replay again and again, break its disk and files, compare what is left.",
    ),
    "topics": ("topics", "Make the topics of the live path."),
    "produce": ("produce", "Send a log file to the topics, at a rate or as it was recorded."),
    "lag": ("lag", "Print how far every partition is read."),
    "torture-kafka": (
        "torture_kafka",
        "Kill a running service and its broker again and again, then balance the books.",
    ),
    "live-demo": (
        "live_demo",
        "A broker, a service, a producer on this machine; slates arrive and are counted.",
    ),
    "broker": ("broker", "Start a Kafka broker of one's own to play with."),
    "config": ("config", "Show the settings and where each value comes from."),
}

HELP = """freshet keeps every user's long history as a few learned tokens, refreshes them as events age
out of the recent window, and answers every arriving event with a fresh slate.

\b
First steps:
  freshet demo                              the whole thing on a real log
  freshet replay LOG --db shop.duckdb --model model.safetensors --slates out.jsonl
  freshet inspect user 12748 --db shop.duckdb
"""

DEBUG_HELP = "On an error, show the traceback too (allowed anywhere on the line)."


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the command names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the named command, imported now, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"infra.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the line; an unknown name is answered with the closest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from infra.settings import closest  # noqa: PLC0415

            raise click.UsageError(f"there is no command {args[0]!r}{closest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


def installed_version() -> str:
    """Return the version of the installed distribution, `unknown` in a bare checkout."""
    try:
        return version("freshet")
    except PackageNotFoundError:
        return "unknown"


@click.group(
    cls=LazyGroup,
    help=HELP,
    epilog="\b\nExit codes:\n" + epilog(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(installed_version(), prog_name="freshet")
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
def cli(debug: bool) -> None:
    """Find the command; `run` has taken --debug off the line already."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        result = cli.main(args=args, prog_name="freshet", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.OK
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message())
        return ExitCode.USAGE
    except click.ClickException as err:
        return _refuse(_usage_text(err), ExitCode.USAGE)
    except click.exceptions.Abort:
        return _refuse("interrupted", ExitCode.INTERRUPTED)
    except SystemExit as err:
        if isinstance(err.__context__, BrokenPipeError):  # the reader (head, less) has left
            return ExitCode.OK
        raise
    except BaseException as err:  # noqa: BLE001 - the outermost place: all becomes one line and a code
        if debug:
            traceback.print_exc()
        return report(err)


def report(err: BaseException) -> int:
    """Print an error as one line on stderr and return its exit code."""
    return _refuse(error_text(err), exit_code(err))


def main() -> NoReturn:
    """Entry point of the installed command."""
    if "FRESHET_FAULT" in os.environ or "FRESHET_FAULT_TRACE" in os.environ:
        from infra.fuse import arm  # noqa: PLC0415

        arm(os.environ)
    sys.exit(run())


def _refuse(text: str, code: ExitCode) -> int:
    click.echo(f"freshet: error: {' '.join(text.split())}", err=True)
    return int(code)


def _usage_text(err: click.ClickException) -> str:
    text = err.format_message().rstrip(".")
    context = getattr(err, "ctx", None)
    path = context.command_path if context is not None else "freshet"
    return f"{text} — see `{path} --help`"
