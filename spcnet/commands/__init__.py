"""The commands, a module each: the signature of a function is its command line, its docstring the help.

The modules import nothing slow at their top, so that help is quick; the functions are also the Python API.
"""
