"""What a job of the workflow is, and the work of each rule: files in, files out.

It may use every other package. Read first: `job` (log, lock, signals, device), then the module of a rule.
"""
