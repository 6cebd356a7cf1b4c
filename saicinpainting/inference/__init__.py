"""Trained networks at work: filling folders, arrays and large images, exports, evaluations of checkpoints."""
