"""The commands: frozen records, from which the command line, the `:` line and keys are made."""
