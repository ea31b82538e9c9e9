"""The sub-commands of `groupvit`, a module each.

A module has `add(commands)`, which declares its arguments, and a function that
runs it: it raises ValueError or OSError with a sentence for the reader, and may
return an exit code. Imports that take time go inside functions.
"""
