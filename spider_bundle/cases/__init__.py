"""The CT edge: head cases with labels, for training and evaluation."""
