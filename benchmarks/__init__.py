"""greenio against its peers: `python -m benchmarks`.

Every row compares contenders that do the same work. Each contender runs in a fresh process of its own, since some of
them patch the whole interpreter; the processes of a row stay alive together and take turns, round by round, so that
what disturbs the machine disturbs all of them alike. A ratio is the median of the ratios of the single rounds.
"""
