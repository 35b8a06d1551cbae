"""Token policies for white-box engines: they make the draws of one group depend on one another, so that they differ,
or, with `consensus`, so that they agree.

    settings        what a user writes, `esamp(beta=0.25)`, as frozen data; needs no torch
    base            the contract: what an engine hands over at each step, and what it gets back
    policies        from settings to the policy that they name
    explorer        what an engine talks to: opens groups, asks their policies, counts, reports
    softmax         the softmax over a large vocabulary, and draws from it
    esamp           Exploratory Sampling (arXiv 2604.24927), with its distiller, learners and guidance
    css, lss        stratified draws over clusters of similar contexts, without and with a memory
    arithmetic      arithmetic sampling: draws spread evenly over whole responses
    consensus       one answer from all reasoning of a group (arXiv 2605.28142)
    async_learner   learning beside the engine
    controls        policies that are there only to compare with

Tensors in, tensors out: no engine, request or text is known here.
"""
