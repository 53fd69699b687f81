-- Lost: crons that were created by API, scheduled runs, and which ticks have fired.
DROP FUNCTION commit_timers(put_cron[], changed_cron[], new_scheduled_run[], changed_scheduled_run[], dropped_timer[]);
DROP TYPE put_cron, changed_cron, new_scheduled_run, changed_scheduled_run, dropped_timer;
DROP TABLE cron, scheduled_run;
