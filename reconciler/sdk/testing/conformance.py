"""The conformance kit: one suite that every connector passes, shipped for authors of third-party connectors too.

In a test file (pytest with pytest-asyncio):

    class VendorCase(Case):
        connector = Vendor
        ...                       # a simulator, settings, and how records come into being; see `case.Case`

    class TestVendor(Conformance):
        case = VendorCase()

Every check makes its own remote and room (milliseconds), runs once per entity, per shape of entity or per channel, and is
skipped only where the connector's declaration or the case says that it cannot apply. What else a vendor does belongs in
tests of its own, for which `trial.trial` gives the same surroundings.
"""

from typing import ClassVar

import pytest

from reconciler.sdk.testing.case import Case
from reconciler.sdk.testing.consenting import Consenting
from reconciler.sdk.testing.declaring import Declaring
from reconciler.sdk.testing.delivering import Delivering
from reconciler.sdk.testing.enduring import Enduring
from reconciler.sdk.testing.listing import Listing
from reconciler.sdk.testing.reading import Reading
from reconciler.sdk.testing.subscribing import Subscribing


class Conformance(Declaring, Reading, Listing, Enduring, Delivering, Subscribing, Consenting):
    """Subclass it in a test module, name it `Test...` and set `case`."""

    case: Case
    pytestmark: ClassVar = [pytest.mark.asyncio]

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """Called by pytest: one check per entity or channel."""
        kind = cls.case.connector
        shapes = cls.case.shapes()
        for name, declared in (("entity", kind.entities), ("shape", shapes), ("channel", kind.channels)):
            if name in metafunc.fixturenames:
                known = [pytest.param(d.name, id=d.name) for d in declared]
                none = pytest.param("", id="none", marks=pytest.mark.skip(reason=f"the connector has no {name}"))
                metafunc.parametrize(name, known or [none])
