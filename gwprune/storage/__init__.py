"""Files that are complete or absent and say whose they are, locks between processes, checkpoints of interrupted work.

It knows bytes, tensors and JSON, not what they mean. Read first: `files`.
"""
