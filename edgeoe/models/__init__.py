"""Networks: loading a teacher, pruning it, and keeping a student as plain data."""
