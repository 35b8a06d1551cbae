"""What a command imports to draw with a local model. A list of modules, not a clock: the machine may be busy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the local engine's extra is not installed")
pytest.importorskip("transformers", reason="the local engine's extra is not installed")

ASK = """
import importlib, json, sys
from pathlib import Path
from samplewise.cli import main
sys.argv = ["samplewise", "ask", "make 24 from 4 6 7 8", "--recipe", "repeat(2) | best(reward)"]
try:
    main()
except SystemExit as ended:
    code = ended.code
loaded = sorted(sys.modules)

import transformers.models
from transformers import masking_utils
from transformers.utils import import_utils
structure = import_utils.define_import_structure(Path(transformers.models.__file__))
listed = {name: module for modules in structure.values() for module, names in modules.items() for name in names}
homes = transformers.models._class_to_module
wrong = [name for name, module in listed.items() if homes.get(name) != module]

import torch
with masking_utils.TransformGetItemToIndex():
    pass
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
print(json.dumps({
    "code": code, "loaded": loaded, "num_listed": len(listed), "wrong": wrong,
    "compiler": torch._dynamo.__file__, "is_available": torch.distributed.is_available(),
    "is_class": isinstance(TransformGetItemToIndex, type),
}))
"""
UNWANTED = {
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.fx.experimental.symbolic_shapes",
    "sympy",
    "scipy",
    "sklearn",
    "pandas",
    "torchvision",
    "accelerate",
    "ray",
    "math_verify",
}


def test_a_command_loads_a_model_without_what_it_never_uses() -> None:
    """Half of the processor time of `ask` went into importing compilers, sharding and scipy."""
    ended = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["code"] == 0
    assert {"torch", "transformers", "transformers.models.llama.modeling_llama"} <= {*found["loaded"]}
    assert not UNWANTED & {*found["loaded"]}
    # What was left out is there for whoever asks for it afterwards.
    assert found["num_listed"] > 1000
    assert found["wrong"] == []
    assert found["compiler"].endswith("__init__.py")
    assert found["is_class"]
    assert found["is_available"] is True
