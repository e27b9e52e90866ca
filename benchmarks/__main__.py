"""`python -m benchmarks`: the benchmark of the score stage; see `benchmarks.score`."""

from benchmarks.score import main

main()
