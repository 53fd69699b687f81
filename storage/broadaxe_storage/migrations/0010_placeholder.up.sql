SELECT 1; -- The number of a migration to come: whoever brings it deletes this file.
