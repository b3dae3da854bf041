"""Faults put into the code one at a time, each of which a named test must notice.

python -m tests.mutations                 all of them, in two processes
python -m tests.mutations --only NAME     one
"""
