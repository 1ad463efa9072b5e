"""Questions that certify an algorithm, of this package or of your own."""

from __future__ import annotations

from innerloop.testing.battery import check_algorithm
from innerloop.testing.certificate import Answer, Certificate

__all__ = ["Answer", "Certificate", "check_algorithm"]
