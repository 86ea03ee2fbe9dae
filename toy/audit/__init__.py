"""What does this loss really minimise? Audits by enumeration, and a helper for tests."""

from toy.audit.audits import AuditError, AuditReport, assert_descends, audit, audit_all

__all__ = ["AuditError", "AuditReport", "assert_descends", "audit", "audit_all"]
