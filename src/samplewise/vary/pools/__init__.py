"""The wordings that arms draw from, all written for this package (the poem is Lewis Carroll's, in the public domain).

A pool is a tuple of texts, and the place of a text in it is part of an arm's id (`role/maths/03` is the third): a text
may be added at the end of a pool, and never moved.
"""
