"""Faults on purpose: real servers and a real PostgreSQL under load, broken in every way of the matrix, then checked.

`load.py` calls and `record.py` writes down what was asked and answered; `site.py` has the processes and `rows.py` what
is done to them; `checker.py` judges, and knows nothing of the service but its contract.
"""
