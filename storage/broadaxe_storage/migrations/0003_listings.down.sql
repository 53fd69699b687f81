-- Nothing recorded is lost.
DROP FUNCTION runs_with_keys(uuid, text[]);
DROP VIEW run_summary;
DROP INDEX log_line_list;
