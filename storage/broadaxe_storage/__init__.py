"""The record: Postgres behind a port that actors and gateway see, and the same port in memory for simulation."""
