"""Rows and files of the service: what API and worker share.

A noun is one folder or file with its tables and queries: jobs, operations, runs, datasets, models, teams, webhooks,
files.
"""
