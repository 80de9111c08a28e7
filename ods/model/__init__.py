"""What instances, databases and jobs are, and what may follow what; without input or output.

A `ValueError` says that another release has written what is read, or that arguments are of another operation.
"""
