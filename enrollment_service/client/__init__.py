"""The client of the enrollment service for Python programs: `EnrollmentClient` and its errors.

Needs grpc and the stubs and nothing else of ours, so that another service can import it without the server's
dependencies. `docs/clients.md` teaches it; a test holds it to this list of imports.
"""

from enrollment_service.client.client import EnrollmentClient
from enrollment_service.client.errors import Closed, OutcomeUnknown, Refused, ServiceError, Violation
from enrollment_service.client.retries import Pauses

__all__ = ["Closed", "EnrollmentClient", "OutcomeUnknown", "Pauses", "Refused", "ServiceError", "Violation"]
