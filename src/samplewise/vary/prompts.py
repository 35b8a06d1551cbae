"""Arms whose text is known ahead: a persona, a way of working, a poem. They cost only the tokens of their text.

Of a pool each question gets its own members, drawn by the key without replacement; their places are in the ids. The
text stands as a paragraph of its own before the question. After it (`slot="after"`, which then is in the id) prompts
keep a common beginning that an endpoint can cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.samplers.repeat import count
from samplewise.types import Question
from samplewise.vary.base import Arm, Made, PlainArm
from samplewise.vary.domains import DOMAINS, checked_domain, chosen_domain
from samplewise.vary.pools.instructions import INSTRUCTIONS
from samplewise.vary.pools.requests import SSOT, SUPPLIED
from samplewise.vary.pools.roles import ROLES
from samplewise.vary.pools.unrelated import NONSENSE, POEM, REMARKS
from samplewise.vary.pools.versions import versioned
from samplewise.vary.slots import Slot, inserted, reworded, slot_of, wording
from samplewise.vary.thinker import filled

Pick = str | tuple[str, ...]
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 that nobody mistakes for another


def role(num: int = 4, *, domain: str = "auto", pick: Pick = (), slot: str = "before") -> Arm:
    """A persona of the question's domain, `num` of twelve; ids such as `role/maths/03`. `pick="maths/03"`, or several
    of them, takes those instead of drawing."""
    return _of_domain("role", ROLES, num, domain, pick, slot)


def instruction(num: int = 4, *, domain: str = "auto", pick: Pick = (), slot: str = "before") -> Arm:
    """A way of working, `num` of twelve for the question's domain; ids such as `instruction/code/02`. `pick` takes
    those that it names instead of drawing. None of them touches the form of the response."""
    return _of_domain("instruction", INSTRUCTIONS, num, domain, pick, slot)


def jabberwocky(num: int = 4, *, ours: bool = False, pick: Pick = (), slot: str = "before") -> Arm:
    """Couplets of Lewis Carroll's poem, `num` of twelve, ids `jabberwocky/01` to 12; with `ours` nonsense that no model
    can know by heart, 13 to 24."""
    ids = [f"{place + 1:02}" for place in range(len(POEM) + len(NONSENSE))]
    drawable = ids[len(POEM) :] if ours else ids[: len(POEM)]
    return _of_pool("jabberwocky", dict(zip(ids, POEM + NONSENSE, strict=True)), drawable, num, pick, slot)


def irrelevant(num: int = 4, *, pick: Pick = (), slot: str = "before") -> Arm:
    """A remark about something else, as long as a persona: a control. `num` of 24, ids such as `irrelevant/04`."""
    pool = {f"{place + 1:02}": text for place, text in enumerate(REMARKS)}
    return _of_pool("irrelevant", pool, list(pool), num, pick, slot)


def verbatim() -> PlainArm:
    """The question given twice: a control, which adds tokens and nothing else."""

    def arm(question: Question) -> tuple[Variant, ...]:
        text = wording(question)
        return (Variant("verbatim", reworded(question, f"{text}\n\n{text}")),)

    return arm


def ssot(num: int = 4, *, supplied: bool = False, size: int = 32, slot: str = "before") -> Arm:
    """The solver writes a random string first and lets it decide its free choices. `num` of four wordings, ids
    `ssot/1` to 4. With `supplied` the string comes from the key, which costs fewer tokens; ids `ssot.supplied/1` to 4.

    Source: string seeds of thought, arXiv 2510.21150.
    """
    _at_most(num, len(SSOT))
    count("size", size)
    where = slot_of(slot)

    def make(key: Key, question: Question, heard: object) -> Made:
        variants = []
        for place in sorted(key.generator().permutation(len(SSOT))[:num].tolist()):
            if supplied:
                drawn = key.fold(place).generator().integers(len(LETTERS), size=size)
                text = filled(SUPPLIED[place], string="".join(LETTERS[letter] for letter in drawn))
            else:
                text = filled(SSOT[place], size=size)
            name = _id(f"{versioned('ssot.supplied' if supplied else 'ssot')}/{place + 1}", where)
            variants.append(Variant(name, inserted(question, text, where)))
        return Made(tuple(variants))

    return Arm("ssot", make)


def _of_domain(family: str, pools: object, num: int, domain: str, pick: Pick, slot: str) -> Arm:
    assert isinstance(pools, dict)
    pool = {f"{name}/{place + 1:02}": text for name in DOMAINS for place, text in enumerate(pools[name])}
    checked_domain(domain)
    size = min(len(pools[name]) for name in DOMAINS)
    _at_most(num, size)
    picked, where = _picked(family, pool, pick), slot_of(slot)

    def make(key: Key, question: Question, heard: object) -> Made:
        own = chosen_domain(domain, question)
        drawable = [name for name in pool if name.startswith(f"{own}/")]
        return _made(family, pool, picked or _some(key, drawable, num), question, where)

    return Arm(family, make)


def _of_pool(family: str, pool: dict[str, str], drawable: Sequence[str], num: int, pick: Pick, slot: str) -> Arm:
    _at_most(num, len(drawable))
    picked, where = _picked(family, pool, pick), slot_of(slot)

    def make(key: Key, question: Question, heard: object) -> Made:
        return _made(family, pool, picked or _some(key, drawable, num), question, where)

    return Arm(family, make)


def _made(family: str, pool: dict[str, str], names: Sequence[str], question: Question, slot: Slot) -> Made:
    own = versioned(family)
    return Made(tuple(Variant(_id(f"{own}/{name}", slot), inserted(question, pool[name], slot)) for name in names))


def _some(key: Key, names: Sequence[str], num: int) -> list[str]:
    """`num` of the names, in the key's order."""
    return [names[place] for place in key.generator().permutation(len(names))[:num].tolist()]


def _picked(family: str, pool: dict[str, str], pick: Pick) -> tuple[str, ...]:
    names = (pick,) if isinstance(pick, str) else tuple(pick)
    for name in names:
        if name not in pool:
            first, *_, last = pool
            raise ValueError(f"pick: {family} has no {name!r}; there are {first} to {last}")
    if len(set(names)) < len(names):
        raise ValueError(f"pick names a text twice: {', '.join(names)}")
    return names


def _at_most(num: int, most: int) -> None:
    if count("num", num) > most:
        raise ValueError(f"num must be at most {most}, the size of the pool; got {num}")


def _id(name: str, slot: Slot) -> str:
    return name if slot == "before" else f"{name}@{slot}"
