"""The texts of requests to helpers, and of what the solver reads from their replies.

`samplewise.vary.helpers.fill_template` fills {question} and the other fields. A question's own braces stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

TUTORS: Mapping[str, str] = {
    "reasoning": "an examiner who teaches careful reasoning",
    "maths": "a tutor of mathematics",
    "code": "a mentor of programmers",
    "puzzles": "a tutor of puzzle solving",
    "general": "an experienced adviser",
}

_LIMITS = (
    "Use at most 60 words of plain prose. Name an approach only: no worked steps, no value, no code, no option letter, "
    "and nothing that gives the result away."
)

IDEAS = (
    f"You are {{tutor}}. A student will work on the problem below. Suggest one approach that could lead to a solution. "
    f"{_LIMITS}\n\nProblem:\n{{question}}\n\nYour suggestion:",
    f"You are {{tutor}}. Read the problem below and name one key insight, technique or viewpoint that would help with "
    f"it, preferably not the first that comes to mind. {_LIMITS}\n\nProblem:\n{{question}}\n\nThe insight:",
    f"You are {{tutor}}. Somebody has tried the obvious way at the problem below and got stuck. Tell them which other "
    f"way they could try. {_LIMITS}\n\nProblem:\n{{question}}\n\nAnother way:",
    f"You are {{tutor}}. Say how you would set about the problem below: what you would look at first and what you "
    f"would aim for. {_LIMITS}\n\nProblem:\n{{question}}\n\nHow to set about it:",
)
OTHER = "These have been suggested already; yours must be a different one:\n{shown}"

_KEEP = (
    "Keep every number, name, unit, symbol and option exactly, and every piece of code as it is. Add nothing, leave "
    "nothing out, and do not solve it. Reply with the new wording alone."
)

REPHRASINGS = (
    f"Restate the problem below in your own words, clearly and completely. {_KEEP}\n\nProblem:\n{{question}}",
    f"Rewrite the problem below as a short story or an everyday situation with the same content. {_KEEP}\n\n"
    f"Problem:\n{{question}}",
    f"Rewrite the problem below in short, simple sentences, one fact in each. {_KEEP}\n\nProblem:\n{{question}}",
    f"Rewrite the problem below so that what is asked stands first and what is given follows. {_KEEP}\n\n"
    f"Problem:\n{{question}}",
    f"Rewrite the problem below in the formal style of a textbook exercise. {_KEEP}\n\nProblem:\n{{question}}",
    f"Rewrite the problem below as one person would put it to a colleague in conversation. {_KEEP}\n\n"
    f"Problem:\n{{question}}",
)
OTHER_WORDING = "These wordings exist already; yours must differ from them:\n{shown}"

PIVOTS = ("German", "French", "Chinese", "Finnish", "Swahili", "Turkish")  # of five language families
THERE = f"Translate the problem below into {{language}}. {_KEEP}\n\nProblem:\n{{question}}"
BACK = f"Translate the {{language}} text below into English. {_KEEP}\n\nText:\n{{question}}"

VERBALIZED = (
    "You are {tutor}. Give {num} approaches to the problem below that differ from each other as much as possible, each "
    f"with the probability that you would have suggested it. {_LIMITS} This holds for each approach.\n\n"
    'Reply with JSON alone: [{"text": "...", "probability": 0.0}, ...]\n\nProblem:\n{question}',
    "You are {tutor}. Give {num} unusual approaches to the problem below, each of which you would suggest with a "
    "probability below {tail}, and that probability. They must differ from each other as much as possible. "
    f"{_LIMITS} This holds for each approach.\n\n"
    'Reply with JSON alone: [{"text": "...", "probability": 0.0}, ...]\n\nProblem:\n{question}',
)

CONCEPTS = (
    "You are {tutor}. Name one concept, theorem or technique that the problem below can be solved with, and say in one "
    "sentence what it is. Do not apply it, and give no value.\n\nProblem:\n{question}\n\nConcept:",
    "You are {tutor}. Name one more concept, theorem or technique that the problem below can be solved with, and say "
    "in one sentence what it is. It must be really different from those of the list. If there is no other, reply "
    "with the single word none. Do not apply it, and give no value.\n\nProblem:\n{question}\n\n"
    "Already named:\n{shown}\n\nA new concept, or none:",
)

PLANS = (
    "You are {tutor}. Make {num} different observations about the problem below that could be of use in solving it, "
    "each in one sentence, as a numbered list. Give no solution and no value.\n\nProblem:\n{question}",
    f"You are {{tutor}}. Turn what was observed about the problem below into one plan for solving it. {_LIMITS}\n\n"
    "Problem:\n{question}\n\nObserved:\n{shown}\n\nThe plan:",
)

# What the solver reads.
IDEA = "One possible approach, which may or may not be the right one: {text}"
CONCEPT = "Use this concept for your solution, and no other: {text}"
PLAN = "A plan that was proposed for what follows: {text}"

SSOT = (
    "Before you begin, write down a random string of about {size} characters. Wherever you are free to choose between "
    "approaches, let the characters of that string decide for you.",
    "First make up a random sequence of roughly {size} characters and note it. Whenever several ways to go on look "
    "equally good, use the next characters of your sequence to pick one.",
    "Start by typing some {size} characters at random. Treat them as the roll of dice: derive from them which approach "
    "you try first and in which order you look at things.",
    "Produce a string of around {size} random characters to begin with, then map it, in whatever way you like, onto "
    "the decisions that are open to you, and stick to what it says.",
)
SUPPLIED = (
    "Here is a random string: {string}. Wherever you are free to choose between approaches, let its characters decide "
    "for you.",
    "Note this random sequence: {string}. Whenever several ways to go on look equally good, use its next characters to "
    "pick one.",
    "Treat the characters of {string} as the roll of dice: derive from them which approach you try first and in which "
    "order you look at things.",
    "Take the string {string} and map it, in whatever way you like, onto the decisions that are open to you, and stick "
    "to what it says.",
)
