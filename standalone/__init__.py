"""The service on one machine: a supervisor, a broker, a database for tests, the demo, the environment."""
