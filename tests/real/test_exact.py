"""What the local engine draws from a real model, against plain forward passes of `transformers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.real.fetch import is_whole, model_folder  # noqa: E402

from samplewise.core.keys import Key  # noqa: E402
from samplewise.core.types import Generate, Message, Sampling  # noqa: E402
from samplewise.engines.local.forward import cache_argument  # noqa: E402
from samplewise.engines.local.language import Language  # noqa: E402

pytestmark = pytest.mark.real

ALL = ("tokens", "logp", "logq")
QUESTION = (Message("user", "Tom has 3 boxes with 4 pens each. He gives away 5 pens. How many pens has he left?"),)
CAPITAL = (Message("user", "What is the capital of France?"),)
OPEN = (Message("system", "Hi"), Message("user", "Say something."))  # short, and many words can come first
NUM_DRAWS, NUM_BINS = 400, 16
ALARM = 1e-6  # probability that one test of a distribution fails though the distribution is right


def test_a_batch_and_each_of_its_rows_alone(engine: Any, answer: Any, plain: Any, tolerance: float) -> None:
    """Log-probabilities are those of a plain pass; the same seed gives the same tokens, alone and in other company."""
    asks = [Generate(QUESTION, max_tokens=3 + 3 * i, seed=i, want=ALL) for i in range(4)]
    asks += [Generate(CAPITAL, max_tokens=6, seed=9, want=ALL, sampling=Sampling(0.7, top_k=30, top_p=0.9))]
    together = answer(asks)
    for ask, completion in zip(asks, together, strict=True):
        prompt = engine._language.prompt(ask.messages)
        lines = plain(prompt + completion.tokens)[len(prompt) - 1 : -1]
        wanted = [float(line[token]) for line, token in zip(lines, completion.tokens, strict=True)]
        assert completion.logp == pytest.approx(wanted, abs=tolerance)
        assert completion.logp_sum == pytest.approx(sum(completion.logp))
    assert all(c.logq == c.logp for c in together[:4])
    assert [c.tokens for c in answer(asks[::-1])] == [c.tokens for c in together[::-1]]
    alone = answer(asks[2:3])[0]
    assert alone._replace(logp=(), logq=(), logp_sum=0.0) == together[2]._replace(logp=(), logq=(), logp_sum=0.0)


def test_prefixes_stops_and_ends(engine: Any, answer: Any, plain: Any, tolerance: float) -> None:
    """At temperature 0 the whole is known: what continues, cuts or ends it must be a part of it."""
    ask = Generate(CAPITAL, max_tokens=24, sampling=Sampling(0.0), want=ALL)
    (whole,) = answer([ask])
    assert "Paris" in whole.text
    assert whole.finish == "stop"
    (end,) = engine.checkpoint.stops
    assert whole.tokens[-1] == end
    assert end not in whole.tokens[:-1]
    assert engine.checkpoint.tokenizer.convert_ids_to_tokens(end) not in whole.text
    cut = len(whole.tokens) // 2
    continued, stopped, absent, limited = answer(
        [
            ask._replace(prefix=whole.tokens[:cut]),
            ask._replace(stop=("Paris",)),
            ask._replace(stop=("London", "Pariser")),
            ask._replace(max_tokens=cut),
        ]
    )
    assert continued.tokens == whole.tokens[cut:]
    assert engine._language.texts([whole.tokens[:cut]])[0] + continued.text == whole.text
    assert continued.logp == pytest.approx(whole.logp[cut:], abs=tolerance)
    assert (stopped.finish, stopped.text) == ("stop", whole.text[: whole.text.index("Paris")])
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
    assert (absent.text, absent.finish) == (whole.text, "stop")
    assert (limited.finish, limited.tokens) == ("length", whole.tokens[:cut])
    prompt = engine._language.prompt(CAPITAL)
    greedy = plain(prompt + whole.tokens)[len(prompt) - 1 : -1].argmax(-1)
    assert tuple(greedy.tolist()) == whole.tokens


def _next_lines(engine: Any, first: list[int]) -> Any:
    """Log-probabilities (1 + N, V): before the first token, and after each of `first`, by the model's own cache."""
    model, prompt = engine.checkpoint.model, engine._language.prompt(OPEN)
    name = cache_argument(model)
    with torch.inference_mode():
        seen = model(input_ids=torch.tensor([prompt]), use_cache=True)
        cache = getattr(seen, name)
        cache.batch_repeat_interleave(len(first))
        after = model(input_ids=torch.tensor(first)[:, None], **{name: cache}).logits[:, -1]
    return torch.log_softmax(torch.cat([seen.logits[0, -1:], after]).double(), -1)


def _drawn_from(line: Any, sampling: Sampling) -> Any:
    """Probabilities (V,) of a draw, by the definition of temperature and top-p."""
    probabilities = np.exp((line / sampling.temperature).numpy())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities)
    kept = np.cumsum(probabilities[order]) - probabilities[order] < sampling.top_p
    probabilities[order[~kept]] = 0.0
    return probabilities / probabilities.sum()


def _ranks(engine: Any, completions: Any, sampling: Sampling) -> tuple[Any, Any]:
    """Return numbers in [0, 1] of all first and all second tokens: uniform and independent if they were drawn right.

    A token's number lies in its interval of the cumulative distribution, tokens sorted from the likeliest down, at a
    random point of it. So bins of equal width are lumps of tokens that are about equally likely.
    """
    assert [c.failure for c in completions if c.failure] == []
    first = sorted({c.tokens[0] for c in completions})
    distributions = [_drawn_from(line, sampling) for line in _next_lines(engine, first)]
    orders = [np.argsort(-probabilities, kind="stable") for probabilities in distributions]
    rng = Key(5).fold("within").generator()
    ranks: tuple[list[float], list[float]] = ([], [])
    for completion in completions:
        for position, token in enumerate(completion.tokens):
            which = 0 if position == 0 else 1 + first.index(completion.tokens[0])
            sorted_probabilities = distributions[which][orders[which]]
            place = int(np.flatnonzero(orders[which] == token)[0])
            assert sorted_probabilities[place] > 0  # it is not filtered out
            ranks[position].append(sorted_probabilities[:place].sum() + rng.random() * sorted_probabilities[place])
    return np.array(ranks[0]), np.array(ranks[1])


def _expect_uniform(ranks: Any) -> None:
    counts = np.bincount(np.minimum((ranks * NUM_BINS).astype(int), NUM_BINS - 1), minlength=NUM_BINS)
    assert stats.chisquare(counts).pvalue > ALARM, counts


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(top_p=0.8), Sampling(1.3, top_p=0.9)])
def test_draws_follow_the_models_distribution(sampling: Sampling, engine: Any, answer: Any) -> None:
    """The first two tokens of 400 draws, in bins of equal probability. False alarms: 2e-6 for each way of drawing."""
    asks = [Generate(OPEN, max_tokens=2, seed=i, want=("tokens",), sampling=sampling) for i in range(NUM_DRAWS)]
    first, second = _ranks(engine, answer(asks), sampling)
    assert len(first) == NUM_DRAWS
    _expect_uniform(first)
    _expect_uniform(second)


def test_every_draw_of_css_follows_the_models_distribution(engine: Any, answer: Any) -> None:
    """Draws of a group depend on one another, but each alone has the model's own distribution: among 300 groups of 3,
    the draws at the same place of their group are independent. False alarms: 6e-6 for all six tests."""
    sampling, size, num_groups = Sampling(explore="css"), 3, 300
    asks = [
        Generate(
            OPEN,
            max_tokens=2,
            seed=size * g + i,
            draw=i,
            want=("tokens",),
            sampling=sampling,
            group=f"g{g}",
            group_size=size,
        )
        for g in range(num_groups)
        for i in range(size)
    ]
    completions = [c for begin in range(0, len(asks), 150) for c in answer(asks[begin : begin + 150])]
    for place in range(size):
        first, second = _ranks(engine, completions[place::size], Sampling())
        assert len(first) == num_groups
        _expect_uniform(first)
        _expect_uniform(second)
    tokens = np.array([c.tokens[0] for c in completions]).reshape(num_groups, size)
    distinct = np.mean([len(set(row)) for row in tokens.tolist()])
    free = _drawn_from(_next_lines(engine, [0])[0], Sampling())
    assert distinct > size - size * (size - 1) / 2 * (free**2).sum()  # more different words than draws by themselves


@pytest.mark.parametrize("name", ["smollm2", "qwen-coder"])
def test_prompts_are_those_of_transformers(name: str) -> None:
    """Without, with and with only a system prompt; a response that has begun; several turns."""
    folder = model_folder().parent / name
    if not is_whole(folder):
        pytest.skip(f"there is no {name} here")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    language = Language(tokenizer, len(tokenizer))
    assert not language.reasons
    for conversation in (
        [("user", "2 + 2?")],
        [("system", "You count."), ("user", "2 + 2?\n\n  ")],
        [("user", "ünïcode 漢字"), ("assistant", "Yes."), ("user", "<|im_end|> is no end")],
        [("user", "2 + 2?"), ("assistant", "The answer is ")],
        [("user", "2 + 2?"), ("assistant", "")],
    ):
        is_open = conversation[-1][0] == "assistant"
        wanted = tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in conversation],
            tokenize=True,
            return_dict=False,
            add_generation_prompt=not is_open,
            continue_final_message=is_open,
        )
        assert language.prompt(tuple(Message(*message) for message in conversation)) == tuple(wanted)
