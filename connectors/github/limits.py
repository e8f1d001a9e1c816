"""How much GitHub takes in a minute, and how fast it may be written to. Declared by the connector, kept by the budget.

Every POST below a repository counts as creating content, also a hook; which ones GitHub counts it does not say. The hourly
limit differs by credential, so it is not here: every answer says it.
"""

from datetime import timedelta

from reconciler.sdk.contract import Limit

MINUTE = timedelta(minutes=1)
SECONDARY = "docs.github.com: secondary rate limits"
PRACTICE = "docs.github.com: best practices for the REST API"
CREATES = {"POST": 1, "*": 0}
REPOSITORY = "*/repos/*"

LIMITS = (
    Limit(requests=900, window=MINUTE, points={"GET": 1, "*": 5}, source=SECONDARY),
    Limit(requests=80, window=MINUTE, points=CREATES, path=REPOSITORY, source=SECONDARY),
    Limit(requests=500, window=timedelta(hours=1), points=CREATES, path=REPOSITORY, source=SECONDARY),
    Limit(requests=1, window=timedelta(seconds=1), points={"GET": 0, "*": 1}, is_serial=True, source=PRACTICE),
)
