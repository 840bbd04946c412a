"""The rules of enrollment and the data they work on. Pure: only the standard library, no I/O, no clock, no chance."""
