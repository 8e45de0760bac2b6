"""ONNX graphs of students: export, check against the student, reduced precision."""
