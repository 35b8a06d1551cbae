"""What the commands share: options, the console, the printing of results and errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from samplewise.cli.completion import complete_engine, complete_recipe
from samplewise.cli.config import Config, load_config
from samplewise.core.errors import SamplewiseError, UsageError
from samplewise.core.files import refuse_database
from samplewise.core.spec import Spec
from samplewise.core.text import CONTROLS, printable
from samplewise.core.types import Json

if TYPE_CHECKING:
    from samplewise.recipe import Recipe as ParsedRecipe

app = typer.Typer(
    name="samplewise",
    help="Many samples, one good answer, as few tokens as possible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class PlainConsole(Console):
    """A console that shows texts of models, servers and stores as they are: control characters are spelled out, and
    square brackets and `:names:` are no markup. Every command prints through one.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)  # before it is measured: columns stay straight

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:
        """Go on without the progress that nobody reads. Where nobody reads the output, the command ends."""
        if not self.stderr:
            raise  # what rich is handling
        self.quiet = True


out = PlainConsole()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 120  # into a file or a pipe: room for the tables


def _print_version(value: bool) -> None:
    if value:
        from samplewise import __version__

        print(f"samplewise {__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option("--config", help="A file of settings; none: look for none", envvar="SAMPLEWISE_CONFIG"),
    ] = None,
) -> None:
    """Many samples, one good answer, as few tokens as possible."""
    settings = load_config(config)
    context.obj = settings
    context.default_map = _Defaults(settings)
    if settings.has_prices and "SAMPLEWISE_PRICES" not in os.environ:
        os.environ["SAMPLEWISE_PRICES"] = str(settings.path)
        context.call_on_close(lambda: os.environ.pop("SAMPLEWISE_PRICES", None))


class _Defaults(dict[str, Any]):
    """The defaults of each command's options, as the file of settings has them."""

    def __init__(self, settings: Config) -> None:
        super().__init__()
        self._settings = settings

    def get(self, command: str, default: Any = None) -> Any:
        return self._settings.defaults_of(command)


def settings_of(context: typer.Context) -> Config:
    """Return the settings that a command runs with."""
    settings = context.find_root().obj
    return settings if isinstance(settings, Config) else Config()


def _engine(context: typer.Context, value: str) -> str:
    return settings_of(context).engine_spec(value)


def engine_or_none(context: typer.Context, value: str | None) -> str | None:
    """Return the spec of an engine that is given by name, None where none is given."""
    return None if value is None else settings_of(context).engine_spec(value)


def engine_for(context: typer.Context, engine: str, recipes: Iterable[ParsedRecipe]) -> Spec:
    """Return the spec of an engine, with those engines of the settings that recipes name as helpers or judges."""
    return settings_of(context).engine_for(engine, {name for recipe in recipes for name in recipe.engines})


def _recipe(context: typer.Context, value: str) -> str:
    return settings_of(context).recipe_line(value)


def _recipes(context: typer.Context, value: list[str]) -> list[str]:
    return [settings_of(context).recipe_line(each) for each in value]


Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        "-e",
        help="tiny, local:PATH_OR_NAME, http:MODEL ..., or a name of the settings",
        envvar="SAMPLEWISE_ENGINE",
        callback=_engine,
        autocompletion=complete_engine,
    ),
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="One line: repeat(16) | vote, or a preset of the settings",
        envvar="SAMPLEWISE_RECIPE",
        callback=_recipe,
        autocompletion=complete_recipe,
    ),
]
Recipes = Annotated[
    list[str],
    typer.Option(
        "--recipe",
        "-r",
        help="A line to compare, or a preset; give several",
        callback=_recipes,
        autocompletion=complete_recipe,
    ),
]
StorePath = Annotated[
    Path, typer.Option("--store", help="The SQLite file that keeps every draw", envvar="SAMPLEWISE_STORE")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed, the same run")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object as the last line")]
BudgetRequests = Annotated[int | None, typer.Option("--budget-requests", min=0, help="Limit of the run in requests")]
BudgetTokens = Annotated[
    int | None, typer.Option("--budget-tokens", min=0, help="Limit of the run in tokens, prompt and completion")
]
BudgetUsd = Annotated[float | None, typer.Option("--budget-usd", min=0.0, help="Limit of the run in USD")]
BudgetSeconds = Annotated[
    float | None, typer.Option("--budget-seconds", min=0.0, help="Limit of each question in seconds")
]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Go on, whatever the run may cost")]
ConfirmAbove = Annotated[
    float | None,
    typer.Option(
        "--confirm-above-usd",
        min=0.0,
        help="Ask before a run that may cost more than this",
        envvar="SAMPLEWISE_CONFIRM_ABOVE_USD",
    ),
]


def _sandbox(value: str | None) -> str | None:
    if value is not None:
        from samplewise.verify.sandbox import use

        use(value)  # type: ignore[arg-type]  # a wrong word is a UsageError
    return value


Sandbox = Annotated[
    str | None,
    typer.Option(
        "--sandbox", callback=_sandbox, help="Where programs are graded: bubblewrap; none gives them your own rights"
    ),
]
Read = Annotated[
    str | None,
    typer.Option("--read", help="How an answer is read: auto, number, maths, choice, json('FIELD'), last_line, text"),
]
System = Annotated[str | None, typer.Option("--system", help="A system prompt before every question")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML report here")]
EqualTokens = Annotated[float | None, typer.Option("--tokens", min=1.0, help="Compare at so many tokens per problem")]

DEFAULT_STORE = Path("samplewise.db")


def write(path: Path, text: str) -> None:
    refuse_database(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    say(f"report: {path}")


def say(text: str) -> None:
    out.print(text, style="dim", highlight=False)


def print_json(**fields: Json) -> None:
    """The last line of standard output. Unknown numbers are null, control characters are escaped as JSON does."""
    text = json.dumps(_known(fields), ensure_ascii=not out.encoding.startswith("utf"))
    print(CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text), flush=True)


def _known(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    return [_known(v) for v in value] if isinstance(value, list | tuple) else value


_has_failed = threading.Event()


class Interrupted(SamplewiseError):
    """The user has ended the run."""

    exit_code = 130


PATIENCE_S = 1.2  # that an interrupted run has to end by itself, before the process is ended


def end_on_signal(cancel: asyncio.Event, kept: str) -> None:
    """End the run at the first SIGINT or SIGTERM: `cancel` is set, and what is in flight is given up.

    A second signal ends the process at once; so do `PATIENCE_S` seconds, whatever a check or a grader is waiting for.
    `kept` is what is then said. To be called in the event loop of the run.
    """
    loop, ended = asyncio.get_running_loop(), threading.Event()

    def give_up() -> None:
        if not _has_failed.is_set():  # else it has been said
            print(f"samplewise: interrupted; {kept}", file=sys.stderr, flush=True)
        os._exit(130)

    def on_signal(number: int, frame: object) -> None:
        if ended.is_set():
            give_up()
        ended.set()
        timer = threading.Timer(PATIENCE_S, give_up)
        timer.daemon = True
        timer.start()
        with contextlib.suppress(RuntimeError):  # the run is over
            loop.call_soon_threadsafe(cancel.set)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), on_signal)


def fail(message: str, code: int) -> NoReturn:
    _has_failed.set()
    print(f"samplewise: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(code)
