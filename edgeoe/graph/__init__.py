"""ONNX graphs of students: written, checked against the student, free of local paths."""
