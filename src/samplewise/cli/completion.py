"""Completion of commands, options and names in bash, zsh and fish: the scripts, and the names that they offer.

The scripts and what answers them are typer's own. A command's module is imported for it, and the settings are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samplewise.cli.config import Config

VARIABLE = "_SAMPLEWISE_COMPLETE"  # by which a shell's script asks the program for words
FILES = {  # where each shell looks for its script
    "bash": "~/.local/share/bash-completion/completions/samplewise",
    "zsh": "~/.zfunc/_samplewise",
    "fish": "~/.config/fish/completions/samplewise.fish",
}
SHELLS = tuple(FILES)


def is_asked() -> bool:
    """Return whether a shell's script asks for words, instead of a person for a command."""
    return VARIABLE in os.environ


def prepare_completion() -> None:
    """Teach the command line the protocol of the scripts."""
    from typer._completion_classes import completion_init

    completion_init()


def script_of(shell: str) -> str:
    """Return the script that a shell reads once."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="samplewise", complete_var=VARIABLE, shell=shell)


def complete_engine(incomplete: str) -> list[str]:
    """Return the engines that begin with a text: those of the settings, then those that are registered."""
    from samplewise.core import registry

    return _beginning(incomplete, (*_settings().engines, *registry.names("engine")))


def complete_recipe(incomplete: str) -> list[str]:
    """Return the presets of the settings that begin with a text."""
    return _beginning(incomplete, _settings().presets)


def complete_kind(incomplete: str) -> list[str]:
    """Return the kinds of parts that begin with a text."""
    from samplewise.core import registry

    return _beginning(incomplete, (*registry.KINDS, "run"))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _settings() -> Config:
    from samplewise.cli.config import Config, load_config
    from samplewise.core.errors import SamplewiseError

    try:
        return load_config(os.environ.get("SAMPLEWISE_CONFIG"))
    except (SamplewiseError, OSError):  # a person who types sees it when the command runs
        return Config()
