"""Enrollment Service: students, courses, and who sits in which course."""
