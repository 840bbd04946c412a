"""The benchmark's own arithmetic: what a wrong figure would hide in."""
