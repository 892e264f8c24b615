"""The command line: one file a command; each parses, builds one config, calls one function and prints what it returned."""
