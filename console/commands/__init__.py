"""The commands: a frozen record each, from which the command line, `:` and keys are made."""
