"""What an estimate of a divergence says about a policy that dropped a part of its target, exactly.

A sample set is known by how many of its samples fall in each of a few classes, so that the mean of
an estimate, its spread, the standard error that it reports and the coverage of the two are sums
over counts. `worlds` holds the policies, `ways` where samples come from, `exact` the sums. The
command is ``python -m toy measurement``.
"""
