"""Enrollment Service: students, courses, and who sits in which course."""

__version__ = "0.1.0"
