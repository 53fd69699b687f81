-- Keeps the number for the schema of flow control, which takes its place.
SELECT 1;
