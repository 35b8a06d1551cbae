"""Arms whose text is known in advance: a persona, a way of working, a poem. They cost only the tokens of their text.

Each question gets its own members of a pool, drawn by the key without replacement. Their positions in the pool are in
the ids. The text is a paragraph of its own before the question. With `slot="after"` (which is then in the id) it
follows the question, so that prompts keep a common prefix that an endpoint can cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Question
from samplewise.samplers.base import Variant
from samplewise.vary.base import Arm, ArmResult, PlainArm
from samplewise.vary.domains import DOMAINS, checked_domain, chosen_domain
from samplewise.vary.helpers import fill_template
from samplewise.vary.pools.instructions import INSTRUCTIONS
from samplewise.vary.pools.requests import SSOT, SUPPLIED
from samplewise.vary.pools.roles import ROLES
from samplewise.vary.pools.unrelated import NONSENSE, POEM, REMARKS
from samplewise.vary.pools.versions import versioned
from samplewise.vary.slots import Slot, inserted, reworded, slot_of, wording

Pick = str | tuple[str, ...]
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 that are not easily confused


def role(num: int = 4, *, domain: str = "auto", pick: Pick = (), slot: str = "before") -> Arm:
    """Vary by a persona of the question's domain, `num` of twelve; ids such as `role/maths/03`.

    `pick="maths/03"`, or several of them, takes those texts instead of drawing.
    """
    return _of_domain("role", ROLES, num, domain, pick, slot)


def instruction(num: int = 4, *, domain: str = "auto", pick: Pick = (), slot: str = "before") -> Arm:
    """Vary by a way of working, `num` of twelve for the question's domain; ids such as `instruction/code/02`.

    `pick` takes the named texts instead of drawing. No text changes the form of the response.
    """
    return _of_domain("instruction", INSTRUCTIONS, num, domain, pick, slot)


def jabberwocky(num: int = 4, *, ours: bool = False, pick: Pick = (), slot: str = "before") -> Arm:
    """Vary by couplets of Lewis Carroll's poem, `num` of twelve, ids `jabberwocky/01` to 12: a control.

    With `ours`, by nonsense that no model knows by heart, ids 13 to 24.
    """
    ids = [f"{index + 1:02}" for index in range(len(POEM) + len(NONSENSE))]
    drawable = ids[len(POEM) :] if ours else ids[: len(POEM)]
    return _of_pool("jabberwocky", dict(zip(ids, POEM + NONSENSE, strict=True)), drawable, num, pick, slot)


def irrelevant(num: int = 4, *, pick: Pick = (), slot: str = "before") -> Arm:
    """Vary by a remark about something else, as long as a persona: a control. `num` of 24, ids such as
    `irrelevant/04`."""
    pool = {f"{index + 1:02}": text for index, text in enumerate(REMARKS)}
    return _of_pool("irrelevant", pool, list(pool), num, pick, slot)


def verbatim() -> PlainArm:
    """Give the question twice: a control that adds tokens and nothing else."""

    def arm(question: Question) -> tuple[Variant, ...]:
        text = wording(question)
        return (Variant("verbatim", reworded(question, f"{text}\n\n{text}")),)

    return arm


def ssot(num: int = 4, *, supplied: bool = False, size: int = 32, slot: str = "before") -> Arm:
    """Ask the solver to write a random string first and to let it decide free choices. `num` of four wordings, ids
    `ssot/1` to 4.

    With `supplied` the string comes from the key, which costs fewer tokens; ids `ssot.supplied/1` to 4.

    Source: string seeds of thought, arXiv 2510.21150.
    """
    _at_most(num, len(SSOT))
    check_count("size", size)
    position = slot_of(slot)

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        variants = []
        for index in sorted(key.generator().permutation(len(SSOT))[:num].tolist()):
            if supplied:
                drawn = key.fold(index).generator().integers(len(LETTERS), size=size)
                text = fill_template(SUPPLIED[index], string="".join(LETTERS[letter] for letter in drawn))
            else:
                text = fill_template(SSOT[index], size=size)
            name = _id(f"{versioned('ssot.supplied' if supplied else 'ssot')}/{index + 1}", position)
            variants.append(Variant(name, inserted(question, text, position)))
        return ArmResult(tuple(variants))

    return Arm("ssot", make)


def _of_domain(family: str, pools: object, num: int, domain: str, pick: Pick, slot: str) -> Arm:
    assert isinstance(pools, dict)
    pool = {f"{name}/{index + 1:02}": text for name in DOMAINS for index, text in enumerate(pools[name])}
    checked_domain(domain)
    size = min(len(pools[name]) for name in DOMAINS)
    _at_most(num, size)
    picked, position = _picked(family, pool, pick), slot_of(slot)

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        question_domain = chosen_domain(domain, question)
        drawable = [name for name in pool if name.startswith(f"{question_domain}/")]
        return _result(family, pool, picked or _some(key, drawable, num), question, position)

    return Arm(family, make)


def _of_pool(family: str, pool: dict[str, str], drawable: Sequence[str], num: int, pick: Pick, slot: str) -> Arm:
    _at_most(num, len(drawable))
    picked, position = _picked(family, pool, pick), slot_of(slot)

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        return _result(family, pool, picked or _some(key, drawable, num), question, position)

    return Arm(family, make)


def _result(family: str, pool: dict[str, str], names: Sequence[str], question: Question, slot: Slot) -> ArmResult:
    prefix = versioned(family)
    return ArmResult(
        tuple(Variant(_id(f"{prefix}/{name}", slot), inserted(question, pool[name], slot)) for name in names)
    )


def _some(key: Key, names: Sequence[str], num: int) -> list[str]:
    """Return `num` of the names, in the key's order."""
    return [names[index] for index in key.generator().permutation(len(names))[:num].tolist()]


def _picked(family: str, pool: dict[str, str], pick: Pick) -> tuple[str, ...]:
    names = (pick,) if isinstance(pick, str) else tuple(pick)
    for name in names:
        if name not in pool:
            first, *_, last = pool
            raise ValueError(f"pick: {family} has no {name!r}; there are {first} to {last}")
    if len(set(names)) < len(names):
        raise ValueError(f"pick names a text twice: {', '.join(names)}")
    return names


def _at_most(num: int, max_num: int) -> None:
    if check_count("num", num) > max_num:
        raise ValueError(f"num must be at most {max_num}, the size of the pool; got {num}")


def _id(name: str, slot: Slot) -> str:
    return name if slot == "before" else f"{name}@{slot}"
