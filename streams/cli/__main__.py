"""`python -m streams.cli`: the same command, for processes that start each other."""

from streams.cli import main

main()
