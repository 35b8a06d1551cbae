"""Requests kept as JSON: what is drawn from often is checked, built and serialised once."""

from __future__ import annotations

from collections.abc import Mapping

from samplewise.engines.http import wire
from samplewise.engines.http.jobs import Job
from samplewise.engines.http.profile import Profile
from samplewise.types import Generate, Json

MAX_FORMS = 1000


class Forms:
    """The forms of one profile; with another one they are made anew. `extra` are the user's fields."""

    def __init__(self, extra: Mapping[str, Json] | None) -> None:
        self._extra = extra
        self._forms: dict[object, wire.Form] = {}
        self._profile: Profile | None = None

    def get(self, job: Job, profile: Profile) -> wire.Request | None:
        """The request for a job, where one like it was kept."""
        if self._profile is not profile:
            self._forms.clear()
            self._profile = profile
            return None
        form = self._forms.get(_likeness(job))
        return None if form is None else form.filled(job.asks[0].seed)  # type: ignore[union-attr]  # of draws alone

    def keep(self, job: Job, request: wire.Request, seed: int) -> wire.Request:
        """Keep the request for a job of draws, and give it with its seed."""
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        form = self._forms[_likeness(job)] = wire.form(request, self._extra)
        return form.filled(seed)


def _likeness(job: Job) -> object:
    """What jobs have in common that differ in their seeds alone: all that decides whether they are supported, too."""
    ask = job.asks[0]
    if not isinstance(ask, Generate):
        return None
    law = (ask.sampling, ask.max_tokens, ask.stop, ask.want, ask.floor, ask.forbid_first)
    return ask.messages, ask.prefix, law, len(job.asks)
