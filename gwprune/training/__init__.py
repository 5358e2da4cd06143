"""Training, dense or under a mask, and what a network is worth: loss, accuracy, multiply-adds.

It knows networks, data sets on a device and masks; checkpoints are the only files. Read first: `train`.
"""
