-- Lost: limits and pauses that were put, and what was spent of the windows under way.
DROP FUNCTION commit_rate_limits(put_rate_limit[], dropped_rate_limit[]);
DROP TYPE put_rate_limit, dropped_rate_limit;
DROP TABLE rate_limit;
