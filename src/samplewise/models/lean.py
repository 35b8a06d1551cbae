"""Import `transformers` without what it imports for features that a command of samplewise never uses.

Importing a model of `transformers` takes longer than importing torch. Most of that is `torch.distributed.tensor`,
`torch._dynamo`, sympy and scipy, for sharded models, compiled ones and the losses of object detectors. A command owns
its process, so it does without them; see `samplewise.models.require_torch`. A program that uses samplewise as a
library may want those features, so there `transformers` is imported as it is.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
MARKS = ("allow_in_graph", "assume_constant_result", "disable")  # decorators that mean something to a compiler alone
MODULES = ("modeling_layers", "masking_utils", "models.auto.modeling_auto", "models.auto.tokenization_auto")


def import_transformers() -> None:
    """Import torch and `transformers`, lean where this release of `transformers` allows it.

    Raises ImportError without them.
    """
    import torch
    import transformers
    from transformers.utils import import_utils

    with contextlib.suppress(Exception):  # another release: what follows is imported when it is used, as it is
        _switch_off(torch, import_utils)
        with _imported_once(transformers, import_utils), _deferred_compiler():
            for name in MODULES:
                importlib.import_module(f"transformers.{name}")


def _switch_off(torch: Any, import_utils: Any) -> None:
    """Tell `transformers` that there is neither torch.distributed nor scipy, as in an installation without them."""
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        import_utils.is_torch_distributed_available()  # remembers what it was told
    finally:
        torch.distributed.is_available = is_available
    utils: Any = sys.modules["transformers.utils"]
    for module in (import_utils, utils):
        module.is_scipy_available = lambda: False


@contextlib.contextmanager
def _imported_once(transformers: Any, import_utils: Any) -> Iterator[None]:
    """Let `transformers.models` take the list of models that `transformers` has made, instead of reading 2,000 files a
    second time, and let nothing import `transformers` itself a second time."""
    define = import_utils.define_import_structure
    folder, prefix = Path(transformers.__file__).parent / "models", "models."
    listed = define(folder, prefix="models")  # as transformers calls it, so it is remembered
    structure = {
        backends: {module.removeprefix(prefix): names for module, names in modules.items()}
        for backends, modules in listed.items()
    }
    import_utils.define_import_structure = lambda path, *rest: (
        structure if Path(path) == folder / "__init__.py" and not rest else define(path, *rest)
    )
    utils: Any = sys.modules["transformers.utils"]
    load_again = utils.direct_transformers_import
    utils.direct_transformers_import = lambda *_: transformers
    try:
        importlib.import_module("transformers.models")
        yield
    finally:
        import_utils.define_import_structure = define
        utils.direct_transformers_import = load_again


class _Deferred:
    """A name of the compiler, which is imported when the name is called."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(self._module), self._name)(*args, **kwargs)


def _unmarked(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    return _unmarked if function is None else function


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unmarked if name in MARKS else _Deferred(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        is_compiler = name == COMPILER or name.startswith(f"{COMPILER}.")
        return ModuleSpec(name, self, is_package=True) if is_compiler else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


@contextlib.contextmanager
def _deferred_compiler() -> Iterator[None]:
    """Let stand-ins be imported for the compiler's modules. Afterwards the compiler can be imported as ever."""
    if COMPILER in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(child, None)
