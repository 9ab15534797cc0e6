"""The command `doctor`: checks a machine for what a config needs, without starting anything.

`examination` runs the checks and prints what they find; each of the other modules has the checks of one thing.
"""
