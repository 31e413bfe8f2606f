"""Measurements: each verb trains or loads for real, and writes a JSON file and a page into reports/."""
