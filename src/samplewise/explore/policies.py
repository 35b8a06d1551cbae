"""Make the policy that settings name: the one module that goes from plain settings to code that needs torch."""

from __future__ import annotations

import importlib

from .base import Head, TokenPolicy
from .settings import ExploreSettings


def policy_of(settings: ExploreSettings, head: Head) -> TokenPolicy:
    """Make the policy that serves every group with these settings. Its module is imported when first needed."""
    module, _, name = settings.policy_class.partition(":")
    policy: TokenPolicy = getattr(importlib.import_module(module), name)(settings, head)
    return policy
