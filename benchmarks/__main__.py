"""`python -m benchmarks`: the benchmark of the score stage; see `benchmarks.run`."""

from benchmarks.run import main

main()
