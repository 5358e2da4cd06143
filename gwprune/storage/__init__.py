"""Files that are complete or absent, locks between processes, and checkpoints that work goes on from.

It knows bytes, tensors and JSON, not what they mean. Read first: `files`.
"""
