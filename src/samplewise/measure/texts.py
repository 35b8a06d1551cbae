"""Similarity of texts: relevance of an arm's wording to a question, and how different responses are on the surface.

The embedder is pluggable. The default needs no model and no network: TF-IDF over character 3- to 5-grams, hashed by
CRC-32 (the same on every machine), idf = log((1 + T) / (1 + df)) + 1 over the T texts of the call, rows of length 1. A
cosine depends on its embedder: compare within one, and never fix a band.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from samplewise.measure._arrays import Floats

SIZES = (3, 4, 5)  # characters of an n-gram
BUCKETS = 1 << 20


class Embed(Protocol):
    """Return vectors (T, D) of T texts, any D."""

    def __call__(self, texts: Sequence[str]) -> Floats: ...


def character_grams(texts: Sequence[str]) -> Floats:
    """Return TF-IDF vectors (T, D) of character n-grams, rows of length 1 (0 for a text without any).

    D are the hash buckets in use. Case and runs of blanks do not count. Two n-grams share a bucket with probability
    1e-6.
    """
    counts = [Counter(_grams(text)) for text in texts]
    columns = {bucket: i for i, bucket in enumerate(sorted(set().union(*counts)))} if counts else {}
    table = np.zeros((len(texts), len(columns)))
    for row, count in enumerate(counts):
        for bucket, times in count.items():
            table[row, columns[bucket]] = times
    table *= np.log((1 + len(texts)) / (1 + (table > 0).sum(axis=0))) + 1
    length = np.sqrt((table**2).sum(axis=1, keepdims=True))
    return np.asarray(table / np.where(length > 0, length, 1.0), dtype=np.float64)


def _grams(text: str) -> list[int]:
    clean = f" {' '.join(text.lower().split())} " if text.strip() else ""
    return [
        zlib.crc32(clean[i : i + size].encode(errors="surrogatepass")) % BUCKETS
        for size in SIZES
        for i in range(len(clean) - size + 1)
    ]


def cosines(texts: Sequence[str], embed: Embed = character_grams) -> Floats:
    """Return the cosine of every pair of texts, (T, T); nan where a text has a vector of 0."""
    vectors = np.asarray(embed(texts), dtype=np.float64)
    length = np.sqrt((vectors**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(vectors @ vectors.T / (length[:, None] * length), dtype=np.float64)


def relevance(texts: Sequence[str], question: str, embed: Embed = character_grams) -> Floats:
    """Return the cosine of each text (T,) to the question; nan for an empty one: the identity arm has no text of its
    own.
    """
    return cosines([*texts, question], embed)[:-1, -1]


def jaccard(first: str, second: str) -> float:
    """Return shared words over all words of two texts, case aside; 1.0 for two texts without words."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) / len(one | other) if one | other else 1.0


def edit_similarity(first: str, second: str) -> float:
    """Return 1 - d / max length, d the Levenshtein distance: 1 for equal texts. Some papers call d / max a
    "similarity".
    """
    longest = max(len(first), len(second))
    return 1 - edit_distance(first, second) / longest if longest else 1.0


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance: insertions, deletions and replacements of a character.

    O(len x len), vectorised in one.
    """
    if len(first) > len(second):
        first, second = second, first
    letters = np.array([ord(c) for c in second], dtype=np.int64)
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for i, letter in enumerate(first, start=1):
        new = np.empty_like(row)
        new[0] = i
        new[1:] = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        row = np.minimum.accumulate(new - steps) + steps  # insertions, from the left
    return int(row[-1])
