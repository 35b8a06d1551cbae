"""Token policies for white-box engines: how the samples of one group keep out of each other's way.

    settings     what a user writes, `esamp(beta=0.25)`, as frozen data; needs no torch
    base         the contract: what an engine hands over at each step, and what it gets back
    explorer     the engine's one door: opens groups, asks their policies, counts, reports
    esamp        Exploratory Sampling (arXiv 2604.24927) and its controls: distiller, learn, guide
    css, lss     stratified draws over clusters of like contexts, without and with a memory
    plain        policies without exploration that any of these must beat

Tensors in, tensors out; knows no engine, no request and no text. Words: it explores, it covers; it is neither optimal
nor free.
"""
