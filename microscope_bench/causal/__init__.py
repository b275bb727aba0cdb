"""What flows where: attention between two groups of positions cut in a window of blocks, and what the answer loses."""
