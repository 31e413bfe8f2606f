"""Rows and files of the service: what API and worker share.

Each resource is one folder or file with its tables and queries: jobs, operations, runs, datasets, models, teams,
webhooks, files.
"""
