"""The layouts in which others write their questions, as rows of ours.

Known are instructions with an input (`instruction`, `input`, `output`), requests of a batch (`custom_id`, `body`), and
choices (`choices`, as a list or as `text` and `label`). What is no text, such as an image, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from samplewise.core.types import Json
from samplewise.verify.choice import LETTERS, lettered

IMAGES = ("image", "images", "image_url")
NO_TEXT = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file", "input_file")


def as_row(row: Mapping[str, Json]) -> dict[str, Json]:
    """Return a row of another layout with our fields; one of ours as it is. Raises ValueError, in one line."""
    known = dict(row)
    if isinstance(known.get("body"), dict) and "custom_id" in known:
        body = known["body"]
        asked = {name: body[name] for name in ("messages", "prompt", "input") if name in body}
        others = {f"body.{name}": value for name, value in body.items() if name not in asked}
        known = {"id": known["custom_id"], **asked, **others}
    if isinstance(known.get("instruction"), str):
        known = _of_instruction(known)
    if known.get("choices") is not None:
        known = _of_choices(known)
    _refuse_images(known)
    return known


def _of_instruction(row: dict[str, Json]) -> dict[str, Json]:
    instruction, given = row.pop("instruction"), row.pop("input", None)
    if given is not None and not isinstance(given, str):
        raise ValueError("input: expected a text beside the instruction")
    row["prompt"] = f"{instruction}\n\n{given}" if given and given.strip() else instruction
    output = row.pop("output", None)
    return row if output is None else {**row, "answer": output}


def _of_choices(row: dict[str, Json]) -> dict[str, Json]:
    """Show the options below the question, and give the answer's letter."""
    choices: Json = row.pop("choices")
    labels: Json = None
    if isinstance(choices, dict):
        choices, labels = choices.get("text"), choices.get("label")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices) or len(choices) < 2:
        raise ValueError("choices: expected a list of two texts or more")
    if len(choices) > len(LETTERS):
        raise ValueError(f"choices: expected at most {len(LETTERS)}, got {len(choices)}")
    answer = row.pop("answerKey", None)
    answer = row.pop("answer", None) if answer is None else answer
    accepted = [_letter(each, choices, labels) for each in (answer if isinstance(answer, list) else [answer])]
    answer = accepted if isinstance(answer, list) else accepted[0]
    asked = next((name for name in ("question", "prompt", "problem", "input") if isinstance(row.get(name), str)), None)
    if asked is None:
        raise ValueError("no question beside the choices; give one of question, prompt, problem, input")
    row[asked] = f"{row[asked].rstrip()}\n\nOptions:\n{lettered(choices)}"
    return {**row, "answer": answer, "facts": {"options": choices, **(row.get("facts") or {})}}


def _letter(answer: Json, choices: list[str], labels: Json) -> Json:
    """Return the letter of the choice that an answer names by label or index; any other answer as it is."""
    if isinstance(labels, list) and answer in labels:
        answer = labels.index(answer)
    if type(answer) is not int:
        return answer
    if not 0 <= answer < len(choices):
        raise ValueError(f"answer: expected the index of a choice, from 0; got {answer}")
    return LETTERS[answer]


def _refuse_images(row: Mapping[str, Json]) -> None:
    field = next((name for name in IMAGES if row.get(name)), None)
    messages = row.get("messages")
    contents = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    part = next((part["type"] for part in parts if part.get("type") in NO_TEXT), None)
    if field is not None or part is not None:
        raise ValueError(f"{field or part}: only text can be asked; leave this row out")
