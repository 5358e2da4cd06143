"""The result tables: schemas, measured thresholds, the comparison of methods, costs, and how people see them.

It knows rows and Parquet files, no network. Read first: `schemas`.
"""
