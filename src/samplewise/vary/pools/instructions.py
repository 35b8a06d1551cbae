"""Ways of working, a dozen for each domain: one step to take, which never touches the form of the response."""

from __future__ import annotations

from collections.abc import Mapping

INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "reasoning": (
        "Before you conclude anything, list the facts that you are given and, apart from them, the facts that you are "
        "missing.",
        "First write out the hidden assumptions behind your favourite explanation, and see which of them you could do "
        "without.",
        "Look for the reading of the problem that a careless person would take, and make sure you read it "
        "differently where that matters.",
        "Argue for one conclusion, then argue against it as strongly as you can, and keep whatever survives your own "
        "attack.",
        "Eliminate what cannot be true before you look for what is, and give your reason each time you rule something "
        "out.",
        "Recall the general law or principle that governs such situations, state it in your own words, and apply it "
        "here step by step.",
        "Compare with a simpler situation that you understand completely, then trace how each difference changes the "
        "outcome.",
        "Put the events into the order in which they happen, and note what you know about the world after every one "
        "of them.",
        "Define the key terms in a sentence each, since you may find that the difficulty lies in a word.",
        "Ask what evidence would change your mind, then search the text for exactly that evidence.",
        "Separate causes from mere coincidences as you go, and only lean on those links which you can explain.",
        "Imagine explaining the matter to a bright twelve-year-old; wherever your explanation stumbles, think again.",
    ),
    "maths": (
        "Write down what is known and what is sought with units, and give every unknown quantity its own symbol before "
        "you calculate.",
        "Work through a smaller version of the problem by hand, and use what you learn there on the real one.",
        "Draw the situation as a diagram or table in words, and read the relations between quantities off your sketch.",
        "Start at the goal and reason backwards until you reach something that you are given, then turn the chain "
        "around.",
        "Look for a quantity that never changes, or for a symmetry, and let it remove as much work as you can.",
        "Estimate roughly how large the outcome ought to be, and compare your exact calculation with that guess when "
        "you are done.",
        "Split the problem into cases that cannot overlap, treat each of them fully, and confirm that you left none "
        "behind.",
        "Keep fractions and roots exact while you work, simplify as early as possible, and postpone every decimal.",
        "Solve it along two independent routes, and if they disagree, find the faulty line in one of your derivations.",
        "Substitute what you found into the original conditions, one after another, and repair whatever fails to fit.",
        "Choose clever variables or coordinates first: spend a moment on which description would make your equations "
        "shortest.",
        "Name the theorem or technique that you intend to use and verify that its requirements hold, before you put it "
        "to work.",
    ),
    "code": (
        "Break the job into small helper functions with one purpose each, and write the helpers before you write what "
        "calls them.",
        "Lean on built-in functions and the standard library wherever they do the job, rather than on loops of your "
        "own.",
        "Describe the data by a small class with clear methods, if you find state that several steps share.",
        "List the awkward inputs first, such as empty, single, repeated or negative ones, and make your code deal with "
        "each.",
        "Write the most straightforward version that is obviously right, and optimise only if you see that it would be "
        "too slow.",
        "Trace the given examples through your code by hand, variable by variable, and repair it until they come out "
        "as shown.",
        "Decide on the data structure first, a dictionary, a heap, a set or a stack, and tell yourself why it fits.",
        "Express the solution recursively with a clear base case, and remember results wherever you would compute them "
        "again.",
        "Sort or group the input up front if that turns your problem into a single pass over it.",
        "Read the description once more for types, ordering and inclusive bounds, and mirror its wording exactly in "
        "your conditions.",
        "Write down the invariant that your main loop keeps, then make sure each branch of the body preserves it.",
        "Think of a well-known algorithm for this kind of task, adapt it deliberately, and mind where your case "
        "departs from the textbook.",
    ),
    "puzzles": (
        "Find the most constrained piece, settle it first, and let everything else follow from where you put it.",
        "Think about the very last move: which two things could combine into the goal, and how might you build both "
        "of them?",
        "Keep a visible list of what is still unused after each move, and stop as soon as you see that nothing fits.",
        "Try an opening that feels unnatural to you, because the natural one has probably been tried already.",
        "Search systematically: fix your opening move, exhaust what can follow, and only then replace it by another.",
        "Look for near misses, attempts that almost reach the goal, and change your decisions in them one at a time.",
        "Break the goal into factors or parts, then ask which of your pieces could produce each part.",
        "Restate all rules in your own words before moving, and hold every finished attempt against that list.",
        "Combine pieces that cancel, vanish or leave others unchanged, since you often need to get rid of a spare one.",
        "Generate several quite different beginnings quickly, judge which looks most promising to you, and develop "
        "that one to the end.",
        "Use parity, size or some other bound to discard hopeless branches early, so that you need not walk them.",
        "Whenever you are stuck for three moves, return to the start and group the pieces in another way.",
    ),
    "general": (
        "Restate the request in a single sentence of your own, and keep it in sight while you work.",
        "Make yourself a short plan of three or four stages, carry them out in order, and tick each one off.",
        "Consider two quite different ways that you could go about it, weigh them briefly, and pursue the stronger.",
        "Begin with whatever is certain, mark clearly where you start to guess, and keep both apart until the end.",
        "Do the hardest part first, while you are fresh, and let the easy parts adapt to it.",
        "Read everything that is given twice, and note any detail that you overlooked on your earlier pass.",
        "Think of a similar task that you have seen done well, and borrow its structure here.",
        "Pause halfway, review what you have so far with a stranger's eyes, and correct your course if needed.",
        "Question the obvious approach: ask who would do it otherwise and why, then decide which you trust.",
        "When you think you are finished, hunt for one mistake as though somebody had told you that it exists.",
        "Use a concrete example to guide you, and check that your reasoning does not depend on that example alone.",
        "Be explicit about every condition in the request, and see that you satisfy them one by one, not all at once.",
    ),
}
