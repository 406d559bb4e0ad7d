"""One file a command: the signature of its function is the command line, its docstring the help."""
